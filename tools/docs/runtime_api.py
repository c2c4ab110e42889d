"""docs/reference/runtime-api.md, from the docstrings of `agentscope.runtime`.

The docstrings have Google's sections (Args, Attributes, Returns, Yields, Raises); each becomes a list.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentscope_worker.runtime import AgentApp, Runtime, SessionContext
from agentscope_worker.runtime.boot_error import BootError
from agentscope_worker.runtime.models.slots import Chunk, Models, Slot, _Stream
from agentscope_worker.runtime.sessions.store import SessionStateError, SessionStore
from tools.architecture import PACKAGES
from tools.docs.markdown import page

INTRODUCTION: Final = """
```python
from agentscope.runtime import AgentApp, SessionContext, runtime
```

The import works in a worker, under `agentscope run`, in your own tests and in type checkers, with AgentScope
1.x and 2.x. `agentscope-supervisor types` writes stubs that know the models of your project.
"""

SECTIONS: Final = ("Args", "Attributes", "Returns", "Yields", "Raises")


@dataclass(frozen=True, slots=True)
class Entry:
    """One heading of the page. `usage`: the call of a function, up to its parameters."""

    title: str
    target: Any
    level: int = 3
    usage: str = ""


ENTRIES: Final[Sequence[Entry]] = (
    Entry("AgentApp", AgentApp, 2),
    Entry("AgentApp.\\_\\_call\\_\\_", AgentApp.__call__, 3, "async def __call__"),
    Entry("AgentApp.on_startup", AgentApp.on_startup, 3, "async def on_startup"),
    Entry("AgentApp.on_shutdown", AgentApp.on_shutdown, 3, "async def on_shutdown"),
    Entry("AgentApp.on_session_idle", AgentApp.on_session_idle, 3, "async def on_session_idle"),
    Entry("AgentApp.on_session_stale", AgentApp.on_session_stale, 3, "async def on_session_stale"),
    Entry("SessionContext", SessionContext, 2),
    Entry("runtime", Runtime, 2),
    Entry("runtime.models", Runtime.models),
    Entry("runtime.tools", Runtime.tools),
    Entry("runtime.session", Runtime.session),
    Entry("runtime.app", Runtime.app),
    Entry("runtime.config", Runtime.config),
    Entry("runtime.is_initialized", Runtime.is_initialized),
    Entry("runtime.initialize", Runtime.initialize, 3, "await runtime.initialize"),
    Entry("runtime.shutdown", Runtime.shutdown, 3, "await runtime.shutdown"),
    Entry("Models", Models, 2),
    Entry("A model", Slot),
    Entry("Call a model", Slot.__call__, 3, "await runtime.models.main"),
    Entry("Stream from a model", _Stream.__call__, 3, "async for chunk in runtime.models.main.stream"),
    Entry("Chunk", Chunk),
    Entry("Session store", SessionStore, 2),
    Entry(
        "runtime.session.save_session_state",
        SessionStore.save_session_state,
        3,
        "await runtime.session.save_session_state",
    ),
    Entry(
        "runtime.session.load_session_state",
        SessionStore.load_session_state,
        3,
        "await runtime.session.load_session_state",
    ),
    Entry(
        "runtime.session.delete_session_state",
        SessionStore.delete_session_state,
        3,
        "await runtime.session.delete_session_state",
    ),
    Entry("SessionStateError", SessionStateError),
    Entry("BootError", BootError, 2),
)
"""The public API, in the order of the page."""


def body(text: str) -> Iterator[str]:
    """A docstring in Markdown: its prose, and a list for each section."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):\n", text, flags=re.MULTILINE)
    yield parts[0].strip()
    for name, content in zip(parts[1::2], parts[2::2], strict=True):
        yield f"**{name}**"
        yield "\n".join(_items(inspect.cleandoc(content), named=name not in ("Returns", "Yields")))


def _items(content: str, *, named: bool) -> Iterator[str]:
    items = re.split(r"\n(?=\S)", content) if named else [content]
    for item in items:
        text = " ".join(item.split())
        name, colon, meaning = text.partition(": ")
        yield f"- `{name}`: {meaning}" if named and colon else f"- {text}"


def entry_text(entry: Entry) -> Iterator[str]:
    """One entry: heading, signature, docstring."""
    yield f"{'#' * entry.level} {entry.title}"
    if entry.usage:
        yield f"```python\n{entry.usage}{_signature(entry.target)}\n```"
    yield from body(inspect.getdoc(entry.target) or "")


def _signature(function: Callable[..., Any]) -> str:
    """The parameters as they stand in the source, without `self` and without `Any`."""
    source = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(source, ast.FunctionDef | ast.AsyncFunctionDef)
    return _parameters(source.args)


def _parameters(found: ast.arguments) -> str:
    for each in (*found.args, *found.kwonlyargs, found.vararg, found.kwarg):
        if each is not None and isinstance(each.annotation, ast.Name) and each.annotation.id == "Any":
            each.annotation = None
    del found.args[:1]  # self, or the agent whose method it becomes
    return f"({ast.unparse(found)})"


def _agent_stream() -> Iterator[str]:
    """`agent.stream`, from its source: an import would load AgentScope."""
    source = PACKAGES["agentscope_worker"] / "runtime" / "compat" / "agentscope2.py"
    (function,) = (
        node
        for node in ast.parse(source.read_text("utf-8")).body
        if isinstance(node, ast.AsyncFunctionDef) and node.name == "stream"
    )
    yield "## agent.stream"
    yield f"```python\nasync for chunk in agent.stream{_parameters(function.args)}\n```"
    yield from body(ast.get_docstring(function) or "")


def text() -> str:
    """The page."""
    parts = [INTRODUCTION]
    for entry in ENTRIES:
        if entry.title == "Session store":
            parts += _agent_stream()
        parts += entry_text(entry)
    return page("Runtime API", *parts)
