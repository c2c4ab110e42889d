"""New projects: the templates of `new`, and the files that it writes.

A template is a folder below `template`; `common` has the files of all of them. A file for one major of
AgentScope has `.v1` or `.v2` in its name. `$name` and the other fields of `Template` are filled in where a
file is about the project itself.
"""

from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template as Text
from typing import Final

from agentscope_supervisor.project.config import OFFLINE

SUFFIX: Final = ".template"
DEFAULT: Final = "agent"


@dataclass(frozen=True, slots=True)
class Template:
    """`question`: a first message. `expected`: a part of the offline answer to it. `needs_packages`: whether
    its requirements.txt names packages that this one does not bring."""

    purpose: str
    question: str
    expected: str
    needs_packages: bool = False


TEMPLATES: Final = {
    "agent": Template(
        "An agent with one tool and saved conversations.",
        "What is the weather in Paris?",
        "It is sunny in Paris.",
    ),
    "chat": Template("A chat with a model, with saved conversations.", "Hello", "Hello"),
    "tools": Template(
        "An agent with several tools, and with those of MCP servers.",
        "What is the status of order 17?",
        "Order 17 was shipped on Monday.",
    ),
    "langgraph": Template(
        "A graph of LangGraph, which streams and saves its conversations.",
        "When do I get my refund?",
        "When do I get my refund?",
        needs_packages=True,
    ),
}

_FILLED_IN: Final = ("README.md", "test_app.py")

_OFFLINE: Final = f"""\
# A program on this machine answers instead of the model. To use the model, set a key, and the last line to 0.
OPENAI_API_KEY=offline
OPENAI_BASE_URL=https://api.openai.com/v1
{OFFLINE}=1
"""


def write(path: Path, template: str, major: str, *, offline: bool) -> list[str]:
    """Write a project into a new or an empty folder; return the names of its files.

    `major`: of AgentScope, "1" or "2". `offline`: the project answers without a model until its `.env` is
    changed. Raises: OSError.
    """
    root = resources.files("agentscope_supervisor.project") / "template"
    files = {**_files(root / "common", major), **_files(root / template, major)}
    chosen = TEMPLATES[template]
    fields = {"name": path.resolve().name, "purpose": chosen.purpose, "question": chosen.question}
    for name, text in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.name in _FILLED_IN:
            text = Text(text).substitute(fields, expected=chosen.expected)
        target.write_text(text, "utf-8")
    if offline:
        (path / ".env").write_text(_OFFLINE, "utf-8")
        (path / ".env").chmod(0o600)
        files[".env"] = ""
    return sorted(files)


def _files(folder: Traversable, major: str, prefix: str = "") -> dict[str, str]:
    """The texts of the files for this major, by their paths in the project."""
    found: dict[str, str] = {}
    for entry in folder.iterdir():
        name = entry.name.removesuffix(SUFFIX)
        stem, _, version = name.rpartition(".v")
        if entry.is_dir():
            found |= _files(entry, major, f"{prefix}{name}/")
        elif not stem or version == major:
            name = {"gitignore": ".gitignore"}.get(name, stem or name)
            found[prefix + name] = entry.read_text("utf-8")
    return found
