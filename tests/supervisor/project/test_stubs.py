"""The type stubs of a project: their text, their place, and the files that they must not overwrite."""

import ast
from pathlib import Path
from typing import get_args

import pytest

from agentscope_protocol.config.settings import ModelSettings
from agentscope_supervisor.project import stubs
from agentscope_worker import runtime

SLOTS = {"main": "openai", "small": "openai", "judge": "anthropic"}


def names_of(text: str) -> set[str]:
    """Return the names that a stub defines for importers."""
    given = set()
    for node in ast.parse(text).body:
        match node:
            case ast.ImportFrom():
                given |= {each.asname for each in node.names if each.asname}
            case ast.Import():
                given |= {each.asname or each.name for each in node.names}
            case ast.ClassDef() | ast.FunctionDef():
                given.add(node.name)
            case ast.AnnAssign(target=ast.Name(name)):
                given.add(name)
    return given


def test_slots_are_attributes_and_literal_keys() -> None:
    text = stubs.runtime_stub(SLOTS)
    for line in (
        "class _OpenAIChatModel(_Slot, _model.OpenAIChatModel): ...",
        "class _AnthropicChatModel(_Slot, _model.AnthropicChatModel): ...",
        "    def __getitem__(self, name: _Literal['main', 'small'], /) -> _OpenAIChatModel: ...",
        "    def __getitem__(self, name: _Literal['judge'], /) -> _AnthropicChatModel: ...",
        "    main: _OpenAIChatModel",
        "    judge: _AnthropicChatModel",
    ):
        assert f"{line}\n" in text


@pytest.mark.parametrize("slots", [{}, {"main": "ollama"}, SLOTS, {"property": "gemini", "Any": "dashscope"}])
def test_a_stub_defines_the_names_of_the_module(slots: dict[str, str]) -> None:
    """The classes are imported from the real module, so no signature can differ."""
    text = stubs.runtime_stub(slots)
    public = {name for name in names_of(text) if not name.startswith("_")}
    assert public == {"AgentApp", "SessionContext", "runtime"} == set(runtime.__all__) - {"Runtime"}
    hidden = {name for name in names_of(text) if name.startswith("_")}
    assert not hidden & slots.keys(), "no slot hides a name that the stub needs"


def test_every_provider_has_a_class() -> None:
    assert stubs.CLASSES.keys() == set(get_args(ModelSettings.model_fields["provider"].annotation))


def test_stubs_are_written_and_overwritten(tmp_path: Path) -> None:
    first = stubs.write(tmp_path, {})
    assert first == [
        tmp_path / "typings/agentscope/__init__.pyi",
        tmp_path / "typings/agentscope/runtime.pyi",
    ]
    assert stubs.write(tmp_path, SLOTS) == first
    assert first[1].read_text() == stubs.runtime_stub(SLOTS)
    assert all(path.read_text().startswith(stubs.MARK + "\n") for path in first)


@pytest.mark.parametrize("name", ["__init__.pyi", "runtime.pyi"])
def test_a_file_that_is_not_a_stub_is_not_overwritten(tmp_path: Path, name: str) -> None:
    theirs = tmp_path / stubs.FOLDER / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine: int\n")
    with pytest.raises(stubs.NotOurs, match=f"{name} was not made by this command"):
        stubs.write(tmp_path, SLOTS)
    assert theirs.read_text() == "mine: int\n"
    assert [path.name for path in theirs.parent.iterdir()] == [name], "no stub is written"


def test_a_mypy_path_in_the_project_is_found(tmp_path: Path) -> None:
    assert not stubs.mypy_knows(tmp_path)
    (tmp_path / "setup.cfg").write_text("[mypy]\nstrict = true\n")
    assert not stubs.mypy_knows(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.mypy]\nmypy_path = "typings"\n')
    assert stubs.mypy_knows(tmp_path)
