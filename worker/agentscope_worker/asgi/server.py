"""The streams of a worker that hosts an ASGI app: its exchanges, and the deletion of stored session states.

Has the same interface as `serve.Server`, which serves an App.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from agentscope_protocol.config.settings import Settings
from agentscope_protocol.wire.endpoint import Event
from agentscope_protocol.wire.link import Link
from agentscope_protocol.wire.responder import Responder
from agentscope_worker.asgi.exchanges import Exchanges
from agentscope_worker.runtime import AgentApp, SessionContext
from agentscope_worker.runtime.asgi_app import AsgiApp
from agentscope_worker.runtime.sessions.store import SessionStore
from agentscope_worker.serve import Explained, Server
from agentscope_worker.sessions import Sessions
from agentscope_worker.watchdog import LifeSigns

STOP_SHARE: Final = 0.5
"""Share of `supervisor.stop_timeout` for apps and their background work; the rest is for the lifespan."""


class AsgiServer:
    """Answers the streams of one link with an ASGI app."""

    def __init__(
        self,
        app: AsgiApp,
        link: Link[Responder],
        life: LifeSigns,
        store: SessionStore,
        settings: Settings,
        replace: Callable[[str], None],
    ) -> None:
        """`replace`: as for `Sessions`."""
        sessions = Sessions(_NoApp(), store, replace)
        self._exchanges: Final = Exchanges(app, link, life, settings.sessions)
        self._others: Final = Server(_NoApp(), link, life, sessions)
        self._stop_time: Final = settings.supervisor.stop_timeout * STOP_SHARE
        self.stream_kinds: Final = [*sessions.stream_kinds, *Exchanges.stream_kinds]

    def on_event(self, event: Event) -> None:
        """Take one event of the link."""
        if not self._exchanges.on_event(event):
            self._others.on_event(event)

    async def stop(self, *, asked: bool) -> None:
        """As `serve.Server.stop`. Apps that do not end in time are cancelled."""
        await self._exchanges.stop(asked=asked, within=self._stop_time)
        await self._others.stop(asked=asked)


class _NoApp(AgentApp):
    """In place of an App: a supervisor that knows ASGI apps sends no turns."""

    async def __call__(self, msg: Any, ctx: SessionContext) -> AsyncIterator[Any]:
        raise Explained("the project has an ASGI app, and no class App")
        yield
