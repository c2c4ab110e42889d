"""Type stubs with which type checkers and editors know the model slots of one project.

Owns their text and their place: `typings/agentscope` in the project, where pyright looks by default and mypy
looks with one line of configuration. The stubs name the slots and import everything else from the installed
package, so they cannot contradict it. Needs only the names of the slots, never the worker's interpreter.
Must never overwrite a file that it did not make.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

FOLDER: Final = Path("typings", "agentscope")

MARK: Final = "# Made by `agentscope-supervisor types`; run it again when the models of agentapp.yaml change."
"""The first line of every file that this module makes, and of no other file."""

CLASSES: Final = {
    "openai": "OpenAIChatModel",
    "anthropic": "AnthropicChatModel",
    "dashscope": "DashScopeChatModel",
    "gemini": "GeminiChatModel",
    "ollama": "OllamaChatModel",
}
"""Provider -> AgentScope's model class; the names are the same in 1.x and 2.x."""

# mypy uses a submodule stub only if the package has a stub too; without __getattr__ that stub would hide the
# top-level names of the real package.
_PACKAGE: Final = f"""\
{MARK}
from typing import Any

def __getattr__(name: str) -> Any: ...
"""

# Names of slots never start with _, so in a class body they cannot hide the aliases below.
_HEAD: Final = f"""\
{MARK}
# A slot extends AgentScope's model; type checkers may report that the two classes do not fit together.
# mypy: ignore-errors
# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false
from collections.abc import Mapping as _Mapping
from typing import Literal as _Literal
from typing import Never as _Never
from typing import overload as _overload

import agentscope.model as _model
from agentscope_worker.runtime import AgentApp as AgentApp
from agentscope_worker.runtime import Runtime as _Runtime
from agentscope_worker.runtime import SessionContext as SessionContext
from agentscope_worker.runtime.models.slots import Slot as _Slot
"""

_TAIL: Final = """
class _ProjectRuntime(_Runtime):
    @property
    def models(self) -> _Models: ...

runtime: _ProjectRuntime
"""


class NotOurs(Exception):
    """A file that this module did not make is in the place of a stub. The text is meant for the user."""


def write(project: Path, slots: Mapping[str, str]) -> list[Path]:
    """Write the stubs of a project with these slots, name -> provider; return their paths.

    Raises: NotOurs, and nothing has been written then; OSError.
    """
    texts = {
        project / FOLDER / "__init__.pyi": _PACKAGE,
        project / FOLDER / "runtime.pyi": runtime_stub(slots),
    }
    for path in texts:
        if path.exists() and not path.read_text("utf-8", "replace").startswith(MARK):
            raise NotOurs(f"{path} was not made by this command and is not overwritten; move it away")
    (project / FOLDER).mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text, "utf-8")
    return list(texts)


def runtime_stub(slots: Mapping[str, str]) -> str:
    """Return the text of `agentscope/runtime.pyi` for these slots, name -> provider."""
    names: dict[str, list[str]] = {}  # class -> its slots
    for slot, provider in slots.items():
        names.setdefault(CLASSES[provider], []).append(slot)
    lines = [f"class _{each}(_Slot, _model.{each}): ..." for each in names]
    classes = " | ".join(f"_{each}" for each in names) or "_Never"
    lines += ["", f"class _Models(_Mapping[{_literal(slots)}, {classes}]):"]
    for each, those in names.items():
        if len(names) > 1:
            lines.append("    @_overload")
        lines.append(f"    def __getitem__(self, name: {_literal(those)}, /) -> _{each}: ...")
    lines += [f"    {slot}: _{each}" for each, those in names.items() for slot in those] or ["    ..."]
    return _HEAD + "\n" + "\n".join(lines) + "\n" + _TAIL


def _literal(names: Mapping[str, str] | list[str]) -> str:
    return f"_Literal[{', '.join(repr(each) for each in names)}]" if names else "_Never"


def mypy_knows(project: Path) -> bool:
    """Return whether a mypy configuration in the project sets `mypy_path`."""
    places = (project / name for name in ("mypy.ini", ".mypy.ini", "pyproject.toml", "setup.cfg"))
    return any("mypy_path" in path.read_text("utf-8", "replace") for path in places if path.is_file())
