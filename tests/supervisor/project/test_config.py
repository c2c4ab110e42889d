"""A project's configuration: the file, the command-line options that override it, and its errors."""

import re
from pathlib import Path
from typing import Any

import pytest

from agentscope_protocol.config.settings import SettingsError, chosen_keys
from agentscope_supervisor.project.config import Overrides, Project, ProjectError, is_archive

FILE = """\
server: {host: 10.0.0.1, port: 9000}
supervisor: {workers: 3}
platform: {endpoint: "https://platform.example/api", instance_id: i-1}
"""


def project(folder: Path, text: str = FILE, **overrides: Any) -> Project:
    (folder / "agentapp.yaml").write_text(text, encoding="utf-8")
    return Project(folder, overrides=Overrides(**overrides))


def test_without_options_the_values_of_the_file_hold(tmp_path: Path) -> None:
    settings = project(tmp_path).read_settings()
    assert (settings.server.host, settings.server.port) == ("10.0.0.1", 9000)
    assert settings.supervisor.workers == 3
    assert settings.platform is not None
    assert settings.platform.instance_id == "i-1"


@pytest.mark.parametrize(
    "overrides, host, port, workers",
    [
        ({"host": "0.0.0.0"}, "0.0.0.0", 9000, 3),
        ({"port": 0}, "10.0.0.1", 0, 3),
        ({"workers": 1}, "10.0.0.1", 9000, 1),
        ({"workers": "auto"}, "10.0.0.1", 9000, "auto"),
        ({"host": "::1", "port": 1, "workers": 2}, "::1", 1, 2),
    ],
)
def test_options_override_the_file_and_change_nothing_else(
    tmp_path: Path, overrides: dict[str, Any], host: str, port: int, workers: int | str
) -> None:
    plain = project(tmp_path).read_settings()
    settings = project(tmp_path, **overrides).read_settings()
    assert (settings.server.host, settings.server.port) == (host, port)
    assert settings.supervisor.workers == workers
    assert settings.platform == plain.platform
    assert settings.sessions == plain.sessions
    assert settings.server.max_turns == plain.server.max_turns


def test_no_platform_removes_the_section(tmp_path: Path) -> None:
    assert project(tmp_path, no_platform=True).read_settings().platform is None


@pytest.mark.parametrize(
    "said, of_developer, of_others",
    [
        ("", "on", "auto"),
        ("console: auto", "on", "auto"),
        ("console: off", "off", "off"),
        ("console: on", "on", "on"),
    ],
)
def test_the_developers_console_is_on_unless_the_file_turns_it_off(
    tmp_path: Path, said: str, of_developer: str, of_others: str
) -> None:
    text = f"server: {{{said}}}"
    assert project(tmp_path, text, console=True).read_settings().server.console == of_developer
    assert project(tmp_path, text).read_settings().server.console == of_others


def test_an_empty_file_is_a_project(tmp_path: Path) -> None:
    settings = project(tmp_path, "").read_settings()
    assert settings.server.port == 8080
    assert not {key for key in chosen_keys(settings) if "." in key}


def test_the_file_is_read_again_each_time(tmp_path: Path) -> None:
    reread = project(tmp_path)
    reread.read_settings()
    project(tmp_path, "server: {port: 9001}")
    assert reread.read_settings().server.port == 9001


def test_variables_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "10.1.1.1")
    assert project(tmp_path, "server: {host: '${HERE}'}").read_settings().server.host == "10.1.1.1"
    monkeypatch.delenv("HERE")
    with pytest.raises(SettingsError, match=r"agentapp\.yaml:1: server\.host: .*HERE"):
        project(tmp_path, "server: {host: '${HERE}'}").read_settings()


def test_the_path_of_another_file_is_relative_to_the_folder(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("server: {port: 7}")
    assert Project(tmp_path, Path("other.yaml")).read_settings().server.port == 7


def test_errors_name_the_file_as_the_option_does(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "other.yaml").write_text("server: {port: high}")
    with pytest.raises(SettingsError, match=r"^conf/other\.yaml:1: server\.port: "):
        Project(tmp_path, Path("conf/other.yaml")).read_settings()


def test_slots_can_be_read_without_the_variables(tmp_path: Path) -> None:
    text = "models: {main: {provider: openai, model: m, api_key: '${NO_SUCH_VARIABLE}'}}"
    assert project(tmp_path, text).read_slots() == {"main": "openai"}
    with pytest.raises(ProjectError, match="no such folder"):
        Project(tmp_path / "none").read_slots()


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    with pytest.raises(ProjectError, match=re.escape(f"{folder}: no such folder")):
        Project(folder).read_settings()


def missing(folder: Path) -> str:
    with pytest.raises(ProjectError) as caught:
        Project(folder).read_settings()
    return str(caught.value)


def test_a_folder_without_a_configuration_says_what_to_do(tmp_path: Path) -> None:
    make = "make a project with: agentscope-supervisor new"
    folder, file = tmp_path / "my app", tmp_path / "my app" / "agentapp.yaml"
    assert missing(folder) == f"{folder}: no such folder; {make} '{folder}'"
    folder.mkdir()
    not_one = f"{folder}: not a project, because it has no agentapp.yaml"
    assert missing(folder) == f"{not_one}; {make} '{folder}'"
    (folder / "notes.txt").touch()
    assert missing(folder) == f"{not_one}; {make} '{folder}/my_app'"
    (folder / "app.py").touch()
    assert missing(folder) == f"{file}: no such file; an empty file is a valid configuration: touch '{file}'"
    (folder / "agentapp.yml").touch()
    assert missing(folder) == f"{file}: no such file; rename agentapp.yml to agentapp.yaml"
    with pytest.raises(ProjectError, match=r"other\.yaml: no such file$"):
        Project(folder, Path("other.yaml")).read_settings()


def test_a_file_of_a_project_is_not_taken_for_an_archive(tmp_path: Path) -> None:
    for name in ("app.py", "agentapp.yaml", "my_app.tar.gz"):
        (tmp_path / name).touch()
    assert is_archive(tmp_path / "my_app.tar.gz")
    assert not is_archive(tmp_path)
    assert not is_archive(tmp_path / "none.py")
    for name in ("app.py", "agentapp.yaml"):
        with pytest.raises(ProjectError) as caught:
            is_archive(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name} is a file; use its folder as PROJECT: {tmp_path}"


def test_an_unreadable_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "agentapp.yaml").mkdir()
    with pytest.raises(ProjectError, match=r"agentapp\.yaml: cannot be read: "):
        Project(tmp_path).read_settings()


def test_a_file_in_another_encoding_is_reported(tmp_path: Path) -> None:
    (tmp_path / "agentapp.yaml").write_bytes("server: {host: é}".encode("latin-1"))
    with pytest.raises(ProjectError, match=r"agentapp\.yaml: cannot be read: .*utf-8"):
        Project(tmp_path).read_settings()


AUTH = """auth: {tokens: [{name: ops, token_file: ops.token, scopes: [operate]}, {name: web, token: w}]}"""


def test_a_token_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "ops.token").write_text("s3cret\n")
    ops, web = project(tmp_path, AUTH).read_settings().auth.tokens
    assert [each.token.get_secret_value() for each in (ops, web) if each.token] == ["s3cret", "w"]
    assert (ops.scopes, ops.token_file) == (["operate"], None)


def test_a_file_with_the_token_of_another_entry_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ops.token").write_text("w")
    with pytest.raises(ProjectError, match=r"agentapp\.yaml: auth: 'ops' and 'web' have the same token"):
        project(tmp_path, AUTH).read_settings()


@pytest.mark.parametrize(
    "content, problem",
    [
        (None, "No such file"),
        (b"", "must be one line"),
        (b"a b", "must be one line"),
        (b"\xc3\xa9", "must be one"),
    ],
)
def test_a_file_without_a_token_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "ops.token").write_bytes(content)
    with pytest.raises(
        ProjectError, match=rf"auth\.tokens, 'ops': token_file .*ops\.token: {problem}"
    ) as refusal:
        project(tmp_path, AUTH).read_settings()
    assert "a b" not in str(refusal.value)
