"""Hosts the App in a worker: from settings to a running App, and from a message to its response.

Owns the order in which a worker touches AgentScope (check the versions, publish the module
`agentscope.runtime` and the names of agentscope-runtime, run the author's code) and the return types that an
App may use. It must not know the link to the supervisor; `main` and `serve` call it.

Read next: `runtime.singleton` for the startup, `runtime.loading` for app.py.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentscope_protocol.config.settings import Settings
from agentscope_worker import runtime as public
from agentscope_worker.agentapp import finder
from agentscope_worker.runtime import AgentApp, Runtime, SessionContext, runtime
from agentscope_worker.runtime.boot_error import BootError
from agentscope_worker.runtime.compat.majors import check_installation, seam
from agentscope_worker.runtime.singleton import Outside

if TYPE_CHECKING:
    from agentscope.message import Msg

__all__ = ["BootError", "boot", "start_answer"]

_EXPECTED = (
    "expected an async generator (async def with yield), or a coroutine that returns a Msg or an "
    "async iterator of Msg"
)


async def boot(
    settings: Settings,
    project: Path,
    *,
    hooks: bool = True,
    worker: str = "0.0",
    member: str = "",
    outside: Outside | None = None,
) -> Runtime:
    """Start the project; returns the runtime singleton, ready for the first turn. `on_startup` runs if
    `hooks`.

    `worker`: the name of this process in traces, "<slot>.<generation>". `member`: see
    `runtime.sessions.claims.Claims`. `outside`: see `runtime.singleton.Runtime.start`.

    Raises: BootError; nothing is left running in that case.
    """
    check_installation(frozenset(each.provider for each in settings.models.values()))
    seam()
    _publish()
    finder.install()
    await runtime.start(settings, project, hooks=hooks, worker=worker, member=member, outside=outside)
    return runtime


async def start_answer(app: AgentApp, msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
    """Call the App; returns its response as an async iterator, for every supported return type.

    Raises: TypeError for an unsupported return type, and any exception that the App raises before its first
    Msg.
    """
    answer: Any = app(msg, ctx)
    if type(answer) is types.AsyncGeneratorType:  # the usual form
        return answer
    if inspect.isawaitable(answer):
        answer = await answer
        returned = "its coroutine returned"
    else:
        returned = "it returned"
    if isinstance(answer, seam().message_class()) and returned == "its coroutine returned":
        return _only(answer)
    if isinstance(answer, AsyncIterable):
        return aiter(answer)
    what = "None" if answer is None else f"a {type(answer).__name__}"
    if inspect.isgenerator(answer):
        what += ", from a def that is not async"
    raise TypeError(f"App.__call__ must respond with Msg: {returned} {what}; {_EXPECTED}")


async def _only(msg: Msg) -> AsyncIterator[Msg]:
    yield msg


def _publish() -> None:
    """Make this package's API available as `agentscope.runtime`, even if its file was not installed."""
    import agentscope

    module = types.ModuleType("agentscope.runtime", public.__doc__)
    for name in ("AgentApp", "SessionContext", "runtime"):
        setattr(module, name, getattr(public, name))
    sys.modules["agentscope.runtime"] = module
    agentscope.runtime = module
