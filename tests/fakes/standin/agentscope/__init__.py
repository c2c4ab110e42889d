"""A stand-in for AgentScope 2.x: the names that a worker and the scripted App use, without agents or models.

`tests.harness.standin` puts it first on the import path of a worker whose test does not depend on AgentScope:
it imports in a tenth of the time. `tests/contracts` runs the same assertions against the stand-in and the
installed AgentScope. The stand-in reports the version of the installed AgentScope.
"""

from importlib.metadata import version

from agentscope._utils._common import set_id_factory, set_timestamp_factory

__version__ = version("agentscope")

__all__ = ["__version__", "set_id_factory", "set_timestamp_factory"]
