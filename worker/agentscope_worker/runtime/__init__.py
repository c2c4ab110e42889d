"""The API that a project imports: the runtime singleton, the base class of the App, and the turn's context.

This package owns everything between a project and AgentScope, for 1.x and 2.x alike. Importing it must stay
cheap: it never imports agentscope, so that tests and type checkers do not pay for it.

Read next: `singleton` for the order of a startup, and `compat.majors` for how one code base supports two
majors of AgentScope.
"""

from agentscope_worker.runtime.application import AgentApp, SessionContext
from agentscope_worker.runtime.singleton import Runtime, runtime

__all__ = ["AgentApp", "Runtime", "SessionContext", "runtime"]
