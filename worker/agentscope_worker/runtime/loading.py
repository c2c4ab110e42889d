"""Loads a project: its `app.py`, its class `App` or its ASGI app, and the error messages for all of them.

Owns `sys.path` and the module name `app`, and checks that a worker can call the methods of an App. It must
not call anything of an App except its constructor; `singleton` calls the hooks. Every failure becomes a
BootError that names the file, the line and the expected code, with a traceback of the author's own frames.

Read next: `discovery` for which object is hosted, `server_calls` for files that end with `uvicorn.run(app)`.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import importlib
import importlib.util
import inspect
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agentscope_worker.runtime import discovery, import_hints, server_calls
from agentscope_worker.runtime.application import AgentApp
from agentscope_worker.runtime.asgi_app import AsgiApp
from agentscope_worker.runtime.boot_error import BootError
from agentscope_worker.runtime.discovery import EXPECTED, Found, Kind, NotFound, NothingFound

# Each method that a worker calls: its arguments, and its usual form.
_METHODS = {
    "__call__": (("msg", "ctx"), "async def __call__(self, msg, ctx)"),
    "on_startup": ((), "async def on_startup(self)"),
    "on_shutdown": ((), "async def on_shutdown(self)"),
    "on_session_idle": (("ctx",), "async def on_session_idle(self, ctx)"),
    "on_session_stale": (("ctx",), "async def on_session_stale(self, ctx)"),
}


# Of asyncio, for a call that needs a running loop, and for `get_event_loop` after `asyncio.run`.
_NO_LOOP = ("no running event loop", "no current event loop")


class NeedsLoop(Exception):
    """app.py can be imported only while an event loop runs."""


def load_app(project: Path, name: str | None = None) -> AgentApp | AsgiApp:
    """The app of a project, as an object that can be started; see `find_app` and `make_app`."""
    return make_app(find_app(project, name), project)


def find_app(project: Path, name: str | None = None) -> Found:
    """Import a project; returns what is to be hosted: `name`, written `module:name`, or what app.py has.

    The project folder becomes the first entry of `sys.path` and stays there. Call it while no event loop
    runs, because app.py may run one.

    Raises: BootError, always permanent; NeedsLoop if app.py expects a running event loop and there is none.
    """
    folder = project.resolve()
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))
    if name is not None:
        return _named(folder, name)
    file = folder / "app.py"
    names, served = _import(file)
    if served is None and _is_script(file) and not _has_app(names):
        names, served = _import(file, as_main=True)
    try:
        return discovery.choose(names, served)
    except NothingFound as error:
        raise BootError(_wrong_app(file, names) or f"{file}: {error}", permanent=True) from None
    except NotFound as error:
        raise BootError(f"{file}: {error}", permanent=True) from None


def make_app(found: Found, project: Path) -> AgentApp | AsgiApp:
    """The object to start. Creates an App; call it in the event loop. Raises: BootError, always permanent."""
    if found.kind is not Kind.APP:
        return AsgiApp(found.value, found.name, "agentapp" if found.kind is Kind.AGENT_APP else "asgi")
    app_class = found.value
    file = project.resolve() / "app.py"
    where = f"{file}, line {_line_of(file, 'App')}" if found.name == "App" else found.name
    missing = ", ".join(sorted(app_class.__abstractmethods__))
    if missing:
        raise BootError(
            f"{where}: App does not define {missing}; App must define async def __call__(self, msg, ctx)",
            permanent=True,
        )
    try:
        app: AgentApp = app_class()
    except Exception as error:
        raise BootError(
            f"{where}: App() raised {_shown(error)}\n{author_traceback(error, project)}",
            permanent=True,
        ) from error
    for name, (arguments, form) in _METHODS.items():
        wrong = _wrong_with(getattr(app, name), arguments, is_hook=name != "__call__")
        if wrong:
            raise BootError(f"{where}: App.{name} {wrong}; App must define {form}", permanent=True)
    return app


def _named(folder: Path, name: str) -> Found:
    """The app that `app: module:name` in agentapp.yaml names."""
    module, _, path = name.partition(":")
    where = f"app: {name} in agentapp.yaml"
    file = folder / "app.py"
    names: Mapping[str, Any]
    if module == "app" and file.is_file():
        names, _ = _import(file)
    else:
        names = _names_of(module, path.partition(".")[0], folder)
    try:
        value = _looked_up(names, path, folder)
    except LookupError:
        raise BootError(f"{where}: {module} has no name {path}", permanent=True) from None
    kind = discovery.kind_of(value)
    if kind is None:
        raise BootError(f"{where}: it is {discovery.description(value)}, and no ASGI app", permanent=True)
    return Found(kind, value, name)


def _looked_up(names: Mapping[str, Any], path: str, folder: Path) -> Any:
    """The value at a dotted path; for a function without parameters, what it returns. Raises: LookupError."""
    first, *rest = path.split(".")
    value = names[first]
    for each in rest:
        if not hasattr(value, each):
            raise LookupError(path)
        value = getattr(value, each)
    return _made(value, folder)


def _made(value: Any, folder: Path) -> Any:
    if discovery.kind_of(value) is None and discovery.is_factory(value):
        return _executed(value, f"{value.__name__}()", folder)[0]
    return value


def _names_of(module: str, name: str, folder: Path) -> Mapping[str, Any]:
    """The global names of a module. If its import ends where it starts a server, `name` is what it serves."""
    import_module = functools.partial(importlib.import_module, module)
    imported, served = _executed(import_module, f"importing {module}", folder)
    return {name: served} if imported is None else vars(imported)


def _is_script(file: Path) -> bool:
    """Whether app.py may start a server when Python runs it as a script."""
    text = file.read_text("utf-8", "replace")
    return "__main__" in text and any(each in text for each in ("uvicorn", "hypercorn", ".run(", ".deploy("))


def _has_app(names: dict[str, Any]) -> bool:
    try:
        discovery.choose(names)
    except NotFound as error:
        return not isinstance(error, NothingFound)
    return True


def _wrong_app(file: Path, names: dict[str, Any]) -> str:
    """Why the name App in app.py is no class that can be hosted; "" if there is no such name."""
    app = names.get("App")
    if app is None:
        return ""
    where = f"{file}, line {_line_of(file, 'App')}"
    if not isinstance(app, type):
        return f"{where}: App is a {_kind(app)}; {EXPECTED}"
    bases = ", ".join(f"{base.__module__}.{base.__qualname__}" for base in app.__bases__)
    return f"{where}: App derives from {bases}; {EXPECTED}"


def _wrong_with(method: Any, arguments: tuple[str, ...], *, is_hook: bool) -> str:
    """Why a worker cannot call a method of an App; "" if it can, or if only the call itself can tell."""
    try:
        # A decorator may pass other arguments to the function that it wraps.
        inspect.signature(method, follow_wrapped=False).bind(*arguments)
    except TypeError as error:
        return f"cannot be called with ({', '.join(arguments)}): {error}"
    except ValueError:  # it is written in C
        return ""
    if inspect.isgeneratorfunction(method) or (is_hook and inspect.isasyncgenfunction(method)):
        return "contains yield" if is_hook else "contains yield, and is not async"
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        return ""
    # The source of a decorated function is that of the function that it wraps.
    if not inspect.ismethod(method) or hasattr(method, "__wrapped__"):
        return ""
    if _returns_only(method, _is_nothing if is_hook else _is_no_stream):
        return f"is not async, and returns {'nothing to await' if is_hook else 'no stream of messages'}"
    return ""


def _is_nothing(value: ast.expr | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def _is_no_stream(value: ast.expr | None) -> bool:
    """Whether an expression is certainly neither an async iterator nor awaitable: a literal, or `Msg(…)`."""
    is_msg = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "Msg"
    return is_msg or value is None or isinstance(value, (ast.Constant, ast.JoinedStr, ast.List, ast.Dict))


def _returns_only(method: Any, kind: Callable[[ast.expr | None], bool]) -> bool:
    """Whether every `return` of a method has a value of this kind. False if its source cannot be read, or if
    it may be meant to raise only."""
    try:
        source = ast.parse(textwrap.dedent(inspect.getsource(method)))
    except (OSError, SyntaxError):
        return False
    (function,) = source.body
    nodes = list(_own_nodes(function))
    if any(isinstance(node, ast.Raise) for node in nodes):
        return False
    return all(kind(node.value) for node in nodes if isinstance(node, ast.Return))


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions inside it."""
    for node in ast.iter_child_nodes(function):
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _own_nodes(node)


def author_traceback(error: BaseException, project: Path) -> str:
    """The traceback of `error`, starting at the first frame of the project; complete if there is none."""
    folder = str(project.resolve())
    report = traceback.TracebackException.from_exception(error)
    _trim(report, folder)
    return "".join(report.format())


def author_line(error: BaseException, project: Path) -> str:
    """`file, line n` of the innermost project frame in the traceback of `error`, or ''."""
    folder = str(project.resolve())
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_below(frame.filename, folder)]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else ""


def _import(file: Path, *, as_main: bool = False) -> tuple[dict[str, Any], object]:
    """Run app.py as the module `app`; returns its global names, and what it passed to a server, or None.

    `as_main`: with the name `__main__`, as when Python runs it as a script.
    """
    if not file.is_file():
        raise BootError(f"{file} does not exist; {EXPECTED}", permanent=True)
    spec = importlib.util.spec_from_file_location("__main__" if as_main else "app", file)
    assert spec is not None  # a .py file always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    names, folder = vars(module), file.parent
    sys.modules["app"] = module
    try:
        _, served = _executed(functools.partial(spec.loader.exec_module, module), "importing app.py", folder)
        return names, _served(served, names, file)
    except BaseException:
        del sys.modules["app"]
        raise


def _served(served: object, names: Mapping[str, Any], file: Path) -> object:
    """The object that app.py serves, given as an app, as `module:name`, or as a function that returns it."""
    if not isinstance(served, str):
        return _made(served, file.parent)
    module, _, path = served.partition(":")
    if module != "app":
        names = _names_of(module, path.partition(".")[0], file.parent)
    try:
        return _looked_up(names, path, file.parent)
    except LookupError:
        message = f"{file}: it starts a server with {served!r}, and there is no such name"
        raise BootError(message, permanent=True) from None


def _executed(run: Callable[[], Any], what: str, folder: Path) -> tuple[Any, object]:
    """Run code of the project; returns its result, and what it passed to a server, or None."""
    with server_calls.intercepted() as calls:
        try:
            return run(), calls.served
        except SyntaxError as error:
            text = f"\n    {error.text.strip()}" if error.text else ""
            raise BootError(
                f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}{text}",
                permanent=True,
            ) from error
        except (server_calls.Served, BaseExceptionGroup):
            if calls.served is None:
                raise
            return None, calls.served
        except (Exception, SystemExit) as error:
            if any(words in str(error) for words in _NO_LOOP) and not _in_loop():
                raise NeedsLoop from error
            advice = import_hints.hint(error, folder)
            raise BootError(
                f"{author_line(error, folder) or folder / 'app.py'}: {what} raised {_shown(error)}\n"
                f"{advice}{advice and chr(10)}{author_traceback(error, folder)}",
                permanent=True,
            ) from error


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _trim(report: traceback.TracebackException, folder: str) -> None:
    for index, frame in enumerate(report.stack):
        if _is_below(frame.filename, folder):
            del report.stack[:index]
            break
    for chained in (report.__cause__, report.__context__, *(report.exceptions or ())):
        if chained is not None:
            _trim(chained, folder)


def _is_below(filename: str, folder: str) -> bool:
    # A virtual environment is often inside the project folder; its files are not the author's code.
    return filename.startswith(folder + "/") and "/site-packages/" not in filename


def _line_of(file: Path, name: str) -> int:
    """The line on which app.py binds `name` at top level, or 1."""
    line = 1
    for node in ast.parse(file.read_bytes()).body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                names = {node.name}
            case ast.Assign():
                names = {each.id for each in node.targets if isinstance(each, ast.Name)}
            case ast.Import() | ast.ImportFrom():
                names = {each.asname or each.name for each in node.names}
            case _:
                names = set()
        if name in names:
            line = node.lineno
    return line


def _kind(value: Any) -> str:
    return "function" if inspect.isroutine(value) else f"{type(value).__name__} object"


def _shown(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
