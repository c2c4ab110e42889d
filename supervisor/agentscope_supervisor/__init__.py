"""The daemon: HTTP front door, turns and their sessions, worker processes and their lives.

Decisions are pure (`workers.fleet`, `turns.ledger` and others with "Pure." in their docstrings); shells do
the I/O (`processes.spawn`, `workers.link`, `web.app` and others); `daemon` puts them together and
`cli.launch` starts it. Nothing here imports agentscope or the worker package.
"""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Final

try:
    __version__ = version("agentscope-supervisor")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0"

_codec = find_spec("agentscope_protocol.wire.codec")
FORM: Final = "plain Python" if _codec is None or str(_codec.origin).endswith(".py") else "compiled"
"""Of the modules that every turn passes; pyproject.toml has the list, hatch_build.py makes them."""
