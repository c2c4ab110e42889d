"""Loads a project: its `app.py`, its class `App`, and the error messages for both.

Owns `sys.path` and the module name `app`, and checks that a worker can call the methods of an App. It must
not call anything of an App except its constructor; `singleton` calls the hooks. Every failure becomes a
BootError that names the file, the line and the expected code, with a traceback of the author's own frames.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from agentscope_worker.runtime import import_hints
from agentscope_worker.runtime.application import AgentApp
from agentscope_worker.runtime.boot_error import BootError

_EXPECTED = "app.py must define class App(AgentApp), with AgentApp imported from agentscope.runtime"

# Each method that a worker calls: its arguments, and its usual form.
_METHODS = {
    "__call__": (("msg", "ctx"), "async def __call__(self, msg, ctx)"),
    "on_startup": ((), "async def on_startup(self)"),
    "on_shutdown": ((), "async def on_shutdown(self)"),
    "on_session_idle": (("ctx",), "async def on_session_idle(self, ctx)"),
    "on_session_stale": (("ctx",), "async def on_session_stale(self, ctx)"),
}


def load_app(project: Path) -> AgentApp:
    """An instance of the class `App` in `project/app.py`.

    The project folder becomes the first entry of `sys.path` and stays there.
    Raises: BootError, always permanent.
    """
    file = project.resolve() / "app.py"
    module = _import(file)
    app_class = getattr(module, "App", None)
    where = f"{file}, line {_line_of(file, 'App')}"
    if app_class is None:
        raise BootError(f"{file}: there is no class App; {_EXPECTED}", permanent=True)
    if not isinstance(app_class, type):
        raise BootError(f"{where}: App is a {_kind(app_class)}; {_EXPECTED}", permanent=True)
    if not issubclass(app_class, AgentApp):
        bases = ", ".join(f"{base.__module__}.{base.__qualname__}" for base in app_class.__bases__)
        raise BootError(f"{where}: App derives from {bases}; {_EXPECTED}", permanent=True)
    missing = ", ".join(sorted(app_class.__abstractmethods__))
    if missing:
        raise BootError(
            f"{where}: App does not define {missing}; App must define async def __call__(self, msg, ctx)",
            permanent=True,
        )
    try:
        app = app_class()
    except Exception as error:
        raise BootError(
            f"{where}: App() raised {_named(error)}\n{author_traceback(error, project)}",
            permanent=True,
        ) from error
    for name, (arguments, form) in _METHODS.items():
        wrong = _wrong_with(getattr(app, name), arguments, is_hook=name != "__call__")
        if wrong:
            raise BootError(f"{where}: App.{name} {wrong}; App must define {form}", permanent=True)
    return app


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


def _import(file: Path) -> ModuleType:
    if not file.is_file():
        raise BootError(f"{file} does not exist; {_EXPECTED}", permanent=True)
    folder = str(file.parent)
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location("app", file)
    assert spec is not None  # a .py file always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["app"] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        del sys.modules["app"]
        text = f"\n    {error.text.strip()}" if error.text else ""
        raise BootError(
            f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}{text}",
            permanent=True,
        ) from error
    except (Exception, SystemExit) as error:
        del sys.modules["app"]
        advice = import_hints.hint(error, file.parent)
        raise BootError(
            f"{author_line(error, file.parent) or file}: importing app.py raised {_named(error)}\n"
            f"{advice}{advice and chr(10)}{author_traceback(error, file.parent)}",
            permanent=True,
        ) from error
    return module


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


def _named(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
