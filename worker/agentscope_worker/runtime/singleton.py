"""`runtime`: the object through which a project uses everything that its configuration defines.

Owns the order of startup and shutdown, and none of the parts: models, MCP servers, sessions and the App have
modules of their own. It must not communicate with a supervisor: a worker starts it through
`agentscope_worker.host`, an author's test through `initialize`.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from agentscope_protocol.config.settings import SessionStoreSettings, Settings, load
from agentscope_worker.runtime import tracing
from agentscope_worker.runtime.application import AgentApp
from agentscope_worker.runtime.asgi_app import SLOT, AsgiApp
from agentscope_worker.runtime.boot_error import BootError
from agentscope_worker.runtime.compat.majors import check_installation, seam
from agentscope_worker.runtime.discovery import Found
from agentscope_worker.runtime.loading import NeedsLoop, author_line, author_traceback, find_app, make_app
from agentscope_worker.runtime.models.slots import Models, build_models, close_models
from agentscope_worker.runtime.sessions.json_store import JsonSessions
from agentscope_worker.runtime.sessions.redis_store import RedisSessions
from agentscope_worker.runtime.sessions.store import SessionStore

if TYPE_CHECKING:
    from agentscope.tool import Toolkit

    from agentscope_worker.runtime.mcp.tools import McpServers

_T = TypeVar("_T")

Outside = Callable[[Callable[[], Found]], Awaitable[Found]]
"""Calls a function while the event loop does not run; returns its result."""


class Runtime:
    """The resources of one project. A process has one object of this class: `runtime`.

    A worker initializes it before it imports `app.py`. Every attribute except `is_initialized` raises
    RuntimeError before that.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._starting = False
        self._initialized = False
        self._hooks = True
        self._config: Settings | None = None
        self._models: Models | None = None
        self._tools: Toolkit | None = None
        self._mcp: McpServers | None = None
        self._session: SessionStore | None = None
        self._app: AgentApp | AsgiApp | None = None

    @property
    def is_initialized(self) -> bool:
        """Whether `initialize` has completed, including `App.on_startup`."""
        return self._initialized

    @property
    def config(self) -> Settings:
        """The validated content of agentapp.yaml; immutable."""
        return _require(self._config, "config")

    @property
    def models(self) -> Models:
        """The models of agentapp.yaml, by name: `runtime.models.<name>`."""
        return _require(self._models, "models")

    @property
    def tools(self) -> Toolkit:
        """An AgentScope Toolkit with the tools of all MCP servers. Each agent works on its own clone.

        The tools of a server that is not reachable are added when it becomes reachable, in clones as well.
        """
        return _require(self._tools, "tools")

    @property
    def session(self) -> SessionStore:
        """The store of session states."""
        return _require(self._session, "session")

    @property
    def app(self) -> Any:
        """The App object of the project, or its ASGI app."""
        app = self.hosted
        return app.app if isinstance(app, AsgiApp) else app

    @property
    def hosted(self) -> AgentApp | AsgiApp:
        """The hosted object: the App, or the ASGI app together with its lifespan."""
        return cast(AgentApp | AsgiApp, _require(self._app, "app"))

    async def initialize(
        self,
        config_path: str | os.PathLike[str] = "agentapp.yaml",
        project_path: str | os.PathLike[str] | None = None,
    ) -> None:
        """Start a project: configuration, models, MCP tools, session store, App, then `App.on_startup`.

        Workers call it; call it yourself only in tests and scripts, and call `shutdown` afterwards.

        Args:
            config_path: The configuration file, relative to `project_path`.
            project_path: The project folder. Default: the current folder.

        Raises:
            RuntimeError: The runtime is already initialized.
            OSError: The file cannot be read.
            SettingsError: The file has errors; the message lists all of them.
            BootError: A model, a required package or the App cannot be loaded, or `on_startup` failed.
        """
        project, file, text = await asyncio.to_thread(_read, config_path, project_path or ".")
        await self.start(load(text, source=str(file), env=os.environ), project)

    async def start(
        self,
        settings: Settings,
        project: Path,
        *,
        hooks: bool = True,
        worker: str = "0.0",
        member: str = "",
        outside: Outside | None = None,
    ) -> None:
        """Start a project whose configuration is already loaded; releases everything after a failure.

        Without `hooks`, no MCP server is connected, the session store is not opened and `on_startup` is not
        called: this checks whether the project can start. `worker`: the name of this process in traces,
        "<slot>.<generation>". `member`: see `sessions.claims.Claims`. `outside`: calls a function while the
        event loop does not run; app.py is imported in it, so that it can run event loops of its own.
        Raises: RuntimeError if already initialized; BootError.
        """
        if self._starting or self._initialized:
            raise RuntimeError(
                "runtime is already initialized (a worker does this before it imports app.py); "
                "call runtime.shutdown() before you initialize it again"
            )
        self._starting = True
        try:
            await self._start(settings, project, hooks, worker, member, outside)
        except BaseException:
            await self._release()
            raise
        self._starting, self._initialized, self._hooks = False, True, hooks

    async def _start(
        self,
        settings: Settings,
        project: Path,
        hooks: bool,
        worker: str,
        member: str,
        outside: Outside | None,
    ) -> None:
        check_installation(frozenset(each.provider for each in settings.models.values()))
        compat = seam()
        compat.adapt(settings.agentscope.permission_mode)
        self._config = settings
        if settings.tracing is not None and hooks:
            tracing.start(settings.tracing.endpoint, project.name, worker)
        self._models = build_models(settings.models)
        self._tools = compat.new_toolkit()
        if hooks and settings.mcp_servers:
            from agentscope_worker.runtime.mcp.tools import McpServers  # importing the library takes 0.5 s

            self._mcp = McpServers(settings.mcp_servers, functools.partial(compat.publish, self._tools))
            with tracing.untraced():  # for the connections; a tool call belongs to the trace of its turn
                await self._mcp.open()
        self._session = _session_store(settings.session, project, compat.MAJOR, member)
        if hooks:
            await self._session.open()
        find = functools.partial(find_app, project, settings.app)
        app = self._app = make_app(find() if outside is None else await _found(find, outside), project)
        hook = "App.on_startup()"
        if isinstance(app, AsgiApp):
            app.state[SLOT] = int(worker.partition(".")[0])
            hook = f"the startup of {app.name}"
        try:
            if hooks:
                await app.on_startup()
        except Exception as error:
            where = author_line(error, project) or str(project / "app.py")
            raise BootError(
                f"{where}: {hook} raised {type(error).__name__}: {error}\n{author_traceback(error, project)}",
                permanent=False,
            ) from error

    async def shutdown(self) -> None:
        """Call `App.on_shutdown`, or the shutdown of the ASGI app; then stop the rest in reverse order.

        Does nothing if the runtime is not initialized.

        Raises:
            Exception: Whatever `on_shutdown` raised, after everything else has stopped.
        """
        if not self._initialized or self._app is None:
            return
        self._initialized = False
        try:
            if self._hooks:
                await self._app.on_shutdown()
        finally:
            await self._release()

    async def _release(self) -> None:
        session, models, mcp = self._session, self._models, self._mcp
        self._reset()
        if mcp is not None:
            await mcp.close()
        if session is not None:
            await session.close()
        if models is not None:
            await close_models(models)
        await tracing.stop()


async def _found(find: Callable[[], Found], outside: Outside) -> Found:
    """The app of app.py. A file that needs a running loop, such as for a client, is imported again."""
    try:
        return await outside(find)
    except NeedsLoop:
        return find()


def _read(config: str | os.PathLike[str], project: str | os.PathLike[str]) -> tuple[Path, Path, str]:
    """The absolute path of the project, that of its configuration file, and the file's text."""
    folder = Path(project).resolve()
    file = folder / config
    return folder, file, file.read_text(encoding="utf-8")


def _require(value: _T | None, name: str) -> _T:
    if value is None:
        raise RuntimeError(
            f"runtime.{name} is not available before the runtime is initialized: a worker does this "
            "before it imports app.py; elsewhere, call `await runtime.initialize()` first"
        )
    return value


def _session_store(settings: SessionStoreSettings, project: Path, major: int, member: str) -> SessionStore:
    if settings.backend == "json":
        return JsonSessions(project / settings.save_dir, major, member)
    assert settings.redis_url is not None, "the settings require redis_url for this backend"
    return RedisSessions(settings.redis_url.get_secret_value(), major, member)


runtime = Runtime()
