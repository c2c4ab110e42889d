"""The variables in a `.env` file, and how they reach the settings and the environment."""

import os
from pathlib import Path

import pytest

from agentscope_supervisor.project import env_file
from agentscope_supervisor.project.config import Overrides, Project, ProjectError

TEXT = """
# ours
export KEY="two words"  # why
URL=https://host/${NAME_OF_TEST}
EMPTY=
SET=from the file
"""
CONFIG = "session: {save_dir: '${KEY}'}\nserver: {auth_token: '${TOKEN}'}"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEY", "TOKEN", "MORE"):
        monkeypatch.setenv(name, "")  # so that the value of a test is removed at its end
        monkeypatch.delenv(name)


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME_OF_TEST", "v1")
    (tmp_path / ".env").write_text("\ufeff" + TEXT)
    assert env_file.read(tmp_path / ".env", {"SET": "kept"}) == {
        "KEY": "two words",
        "URL": "https://host/v1",
        "EMPTY": "",
    }


@pytest.mark.parametrize(
    "text, line", [("\n\nhello world\n", 3), ("A=1\nsecret-value\n", 2), ("A=1\nB='x\n", 2)]
)
def test_a_line_that_is_no_variable_is_reported_without_its_text(
    tmp_path: Path, text: str, line: int
) -> None:
    (tmp_path / ".env").write_text(text)
    with pytest.raises(env_file.EnvFileError) as caught:
        env_file.read(tmp_path / ".env", {})
    assert str(caught.value) == f"{tmp_path}/.env:{line}: is not NAME=value"


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff")
    with pytest.raises(env_file.EnvFileError, match=r"\.env: cannot be read: "):
        env_file.read(tmp_path / ".env", {})


def project(folder: Path, *, needs_it: bool = False) -> Project:
    (folder / "agentapp.yaml").write_text(CONFIG)
    return Project(folder, overrides=Overrides(env_file=Path(".env"), needs_env_file=needs_it))


def test_a_reload_reads_the_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, file = project(tmp_path), tmp_path / ".env"
    file.write_text("KEY=one\nTOKEN=t1\nMORE=1\n")
    settings = ours.read_settings()
    assert settings.session.save_dir == "one"
    assert (os.environ["KEY"], os.environ["MORE"]) == ("one", "1"), "workers inherit the variables"
    assert "TOKEN" not in os.environ, "only the supervisor may know it"
    assert ours.read_settings() == settings
    file.write_text("KEY=two\nTOKEN=t2\n")
    settings = ours.read_settings()
    assert settings.session.save_dir == os.environ["KEY"] == "two"
    assert settings.server.auth_token is not None
    assert settings.server.auth_token.get_secret_value() == "t2"
    assert "MORE" not in os.environ
    assert ours.from_file == {"KEY": "two", "TOKEN": "t2"}


def test_the_token_is_found_in_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TOKEN=t1\n")
    assert project(tmp_path).read_token() == ("t1", [])
    assert project(tmp_path).unset_variables() == ["KEY", "TOKEN"]


def test_only_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    assert project(tmp_path).read_token() == (None, ["TOKEN"])
    with pytest.raises(ProjectError) as caught:
        project(tmp_path, needs_it=True).read_settings()
    assert str(caught.value) == f"{tmp_path}/.env: no such file (--env-file)"
    (tmp_path / ".env").write_text("?")
    with pytest.raises(ProjectError, match="is not NAME=value"):
        project(tmp_path).read_settings()
