"""The daemon: HTTP front door, turns and their sessions, worker processes and their lives.

Decisions are pure (`lifecycle`, `restarts`, `fleet`, `routing`, `ledger`, `outcomes`, `sse`); shells do the
I/O (`spawn`, `worker_link`, `front_door`, …); `daemon` puts them together and `launch` starts it. Nothing
here imports agentscope or the worker package.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("agentscope-supervisor")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0"
