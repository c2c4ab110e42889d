"""The calls with which app.py would start a server: while app.py is imported, they end its import instead.

Many files end with `uvicorn.run(app)`. In a worker that call must not listen on a port: it names the app to
host. Owns the table of such calls. A call counts only on the thread that imports app.py, and only during the
import, so an app can still start servers of its own later.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final


class Served(BaseException):
    """app.py has reached the call that would serve `app`. Not an Exception, so that app.py does not catch it.

    `app`: what the call would serve: an app, or `module:name`.
    """

    def __init__(self, app: object) -> None:
        super().__init__("app.py starts a server")
        self.app: Final = app


def _first(app: object = None, *_: object, **more: object) -> object:
    return more.get("app", app)


def _config(server: Any, *_: object, **__: object) -> object:
    return server.config.app


def _path(config: Any, *_: object, **__: object) -> object:
    return config.application_path


def _deployed(app: object, deployer: object = None, *_: object, **more: object) -> object:
    """None for a deployer that deploys somewhere else."""
    deployer = more.get("deployer", deployer)
    return app if type(deployer).__name__ == "LocalDeployManager" else None


CALLS: Final[dict[str, dict[str, Callable[..., object]]]] = {
    "uvicorn": {"run": _first},
    "uvicorn.main": {"run": _first},
    "uvicorn.server": {"Server.run": _config, "Server.serve": _config},
    "hypercorn.asyncio": {"serve": _first},
    "hypercorn.run": {"run": _path},
    "quart.app": {"Quart.run": _first, "Quart.run_task": _first},
    "flask.app": {"Flask.run": _first},
    "aiohttp.web": {"run_app": _first},
    "agentscope_runtime.engine.app.agent_app": {"AgentApp.run": _first, "AgentApp.deploy": _deployed},
}
"""Module -> its functions that start a server -> what such a call would serve."""


class Calls:
    """The intercepted calls of one import."""

    def __init__(self) -> None:
        self.served: object | None = None  # the first app that was to be served
        self._thread: Final = threading.get_ident()
        self._active = True
        self._replaced: Final[list[tuple[Any, str, Any]]] = []
        self._originals: Final[dict[Any, Any]] = {}  # by their replacements

    def patch(self, module: ModuleType) -> None:
        """Replace the functions of a module that has been imported."""
        for path, what in CALLS[module.__name__].items():
            *owners, name = path.split(".")
            owner: Any = module
            for each in owners:
                owner = getattr(owner, each, None)
            original = getattr(owner, name, None)
            if original is None:
                continue  # another release of the library does not have it
            if original in self._originals:  # the module has it from one that is patched already
                self._replaced.append((owner, name, self._originals[original]))
                continue
            replacement = self._replacement(original, what)
            self._originals[replacement] = original
            self._replaced.append((owner, name, original))
            setattr(owner, name, replacement)

    def end(self) -> None:
        """Put the functions back. A reference to a replaced function calls the original from now on."""
        self._active = False
        for owner, name, original in reversed(self._replaced):
            setattr(owner, name, original)

    def _replacement(self, original: Callable[..., Any], what: Callable[..., object]) -> Callable[..., Any]:
        @functools.wraps(original)
        def replacement(*arguments: Any, **options: Any) -> Any:
            app = what(*arguments, **options) if self._counts() else None
            if app is None:
                return original(*arguments, **options)
            if self.served is None:
                self.served = app
            raise Served(app)

        return replacement

    def _counts(self) -> bool:
        return self._active and threading.get_ident() == self._thread


@contextlib.contextmanager
def intercepted() -> Iterator[Calls]:
    """Intercept the calls of CALLS inside the block, on this thread."""
    calls = Calls()
    finder = _Finder(calls)
    for name in CALLS:
        if name in sys.modules:
            calls.patch(sys.modules[name])
    sys.meta_path.insert(0, finder)
    try:
        yield calls
    finally:
        sys.meta_path.remove(finder)
        calls.end()


class _Finder(importlib.abc.MetaPathFinder):
    """Patches the modules of CALLS right after their import."""

    def __init__(self, calls: Calls) -> None:
        self._calls: Final = calls
        self._searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in CALLS or self._searching:
            return None
        self._searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._searching = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._calls)
        return spec


class _Loader(importlib.abc.Loader):
    """Loads a module with its own loader, and patches it."""

    def __init__(self, loader: importlib.abc.Loader, calls: Calls) -> None:
        self._loader: Final = loader
        self._calls: Final = calls

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None  # the module is being imported
        # Libraries read their data files through the module's own loader.
        spec.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._calls.patch(module)
