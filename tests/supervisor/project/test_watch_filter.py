"""Which files of a project bring new workers when they change."""

from pathlib import PurePath

import pytest

from agentscope_supervisor.project.watch_filter import WatchFilter

FOLDER = PurePath("/srv/shop")
EDITS = WatchFilter(FOLDER, PurePath("conf/live.cfg"), PurePath("./store"))


@pytest.mark.parametrize(
    "path",
    [
        *("app.py", "tools/search.py", "agentapp.yaml", "conf/live.cfg", ".env", ".env.local"),
        *("prompts/system.j2", "pyproject.toml", "environment/setup.py"),
    ],
)
def test_what_its_author_writes_counts(path: str) -> None:
    assert EDITS.matters(FOLDER / path)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "__pycache__/app.cpython-311.pyc",
            "tools/__pycache__/search.py",
            ".venv/lib/x.py",
            "venv/lib/x.py",
        ),
        *("own-env/lib/python3.11/site-packages/x.py", ".git/config.toml", "node_modules/a/b.py"),
        *(
            "sessions/s.py",
            "store/notes.py",
            "typings/agentscope/runtime.py",
            "notes.md",
            "log.txt",
            "data.json",
        ),
        *(".app.py.swp", "app.py~", "#app.py#", ".#app.py", "4913", "app.py___jb_tmp___", ".envrc"),
        "../other/app.py",
    ],
)
def test_what_is_made_does_not(path: str) -> None:
    made = FOLDER.parent / path.removeprefix("../") if path.startswith("../") else FOLDER / path
    assert not EDITS.matters(made)


def test_sessions_in_the_project_itself_hide_nothing() -> None:
    assert WatchFilter(FOLDER, PurePath("agentapp.yaml"), PurePath()).matters(FOLDER / "app.py")


def test_a_configuration_outside_the_project_counts() -> None:
    edits = WatchFilter(FOLDER, PurePath("/etc/shop.conf"), PurePath("sessions"))
    assert edits.matters(PurePath("/etc/shop.conf"))
    assert edits.told([PurePath("/etc/shop.conf")]) == "/etc/shop.conf"


def test_the_first_files_are_told_each_once() -> None:
    files = [FOLDER / name for name in ("b.py", "a.py", "a.py")]
    assert EDITS.told(files) == "a.py, b.py"
    assert EDITS.told([FOLDER / f"{n}.py" for n in range(9)]) == "0.py, 1.py, 2.py and 6 more"
