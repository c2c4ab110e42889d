"""Stub files that make type checkers and editors know the model slots of one project.

Owns their text and their place: `typings/agentscope` in the project, where pyright looks without being told,
and mypy with one line of configuration. They name the slots and take everything else from the package
itself, so that they cannot disagree with it. It needs the slots' names only, never the worker's interpreter,
and must never overwrite a file that it did not make.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

FOLDER: Final = Path("typings", "agentscope")

MARK: Final = "# Made by `agentscope-supervisor types`; run it again when the models of agentapp.yaml change."
"""The first line of each file that this module makes, and of no other."""

CLASSES: Final = {
    "openai": "OpenAIChatModel",
    "anthropic": "AnthropicChatModel",
    "dashscope": "DashScopeChatModel",
    "gemini": "GeminiChatModel",
    "ollama": "OllamaChatModel",
}
"""AgentScope's class for the models of a provider; the same names on 1.x and 2.x."""

# mypy takes a submodule from here only if its package is here too, and would then miss what the real
# package has at its top.
_PACKAGE: Final = f"""\
{MARK}
from typing import Any

def __getattr__(name: str) -> Any: ...
"""

# Names of slots never begin with _, so that in a class body they cannot hide what these begin with.
_HEAD: Final = f"""\
{MARK}
# A slot is AgentScope's model and more; the checkers need not agree that a class can be both.
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
    """A file stands where a stub should, and something else made it; the text is for a person."""


def write(project: Path, slots: Mapping[str, str]) -> list[Path]:
    """Write the stubs of a project with these slots, name -> provider; returns their paths.

    Raises: NotOurs, and then nothing is written; OSError.
    """
    texts = {
        project / FOLDER / "__init__.pyi": _PACKAGE,
        project / FOLDER / "runtime.pyi": runtime_stub(slots),
    }
    for path in texts:
        if path.exists() and not path.read_text("utf-8", "replace").startswith(MARK):
            raise NotOurs(f"{path} was not made by this command and is left as it is; move it away")
    (project / FOLDER).mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text, "utf-8")
    return list(texts)


def runtime_stub(slots: Mapping[str, str]) -> str:
    """The text of `agentscope/runtime.pyi` for these slots, name -> provider."""
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
    """Whether a configuration of mypy in the project sets its `mypy_path`."""
    places = (project / name for name in ("mypy.ini", ".mypy.ini", "pyproject.toml", "setup.cfg"))
    return any("mypy_path" in path.read_text("utf-8", "replace") for path in places if path.is_file())
