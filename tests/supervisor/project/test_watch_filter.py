"""Which changed files of a project replace the workers."""

from pathlib import PurePath

import pytest

from agentscope_supervisor.project.watch_filter import WatchFilter

FOLDER = PurePath("/srv/shop")
FILTER = WatchFilter(FOLDER, PurePath("conf/live.cfg"), PurePath("./store"))


@pytest.mark.parametrize(
    "path",
    [
        *("app.py", "tools/search.py", "agentapp.yaml", "conf/live.cfg", ".env", ".env.local"),
        *("prompts/system.j2", "pyproject.toml", "environment/setup.py"),
    ],
)
def test_source_files_matter(path: str) -> None:
    assert FILTER.matters(FOLDER / path)


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
def test_generated_files_do_not_matter(path: str) -> None:
    made = FOLDER.parent / path.removeprefix("../") if path.startswith("../") else FOLDER / path
    assert not FILTER.matters(made)


def test_sessions_in_the_project_folder_hide_no_code() -> None:
    assert WatchFilter(FOLDER, PurePath("agentapp.yaml"), PurePath()).matters(FOLDER / "app.py")


def test_a_configuration_outside_the_project_matters() -> None:
    outside = WatchFilter(FOLDER, PurePath("/etc/shop.conf"), PurePath("sessions"))
    assert outside.matters(PurePath("/etc/shop.conf"))
    assert outside.summary([PurePath("/etc/shop.conf")]) == "/etc/shop.conf"


def test_the_summary_names_the_first_files_once_each() -> None:
    files = [FOLDER / name for name in ("b.py", "a.py", "a.py")]
    assert FILTER.summary(files) == "a.py, b.py"
    assert FILTER.summary([FOLDER / f"{n}.py" for n in range(9)]) == "0.py, 1.py, 2.py and 6 more"


def test_files_in_the_usual_data_folders_do_not_matter() -> None:
    assert not FILTER.matters(FOLDER / "data" / "state.yaml")
    assert not FILTER.matters(FOLDER / "workspace" / "script.py")
    assert FILTER.matters(FOLDER / "shop" / "data" / "loader.py"), "only at the top of the project"
    assert FILTER.matters(FOLDER / "data.py")


def test_files_that_a_worker_has_opened_for_writing_do_not_matter() -> None:
    written = {FOLDER / "notes.yaml", FOLDER / "conf/live.cfg"}
    assert not FILTER.matters(FOLDER / "notes.yaml", written)
    assert FILTER.matters(FOLDER / "app.py", written)
    assert FILTER.matters(FOLDER / "conf/live.cfg", written), "the configuration always matters"


@pytest.mark.parametrize(
    "path, matters",
    [
        ("prompt.md", True),
        ("deep/in/prompt.md", True),
        ("data/rules.json", True),
        ("data/other.json", False),
        ("written.yaml", True),  # included, although a worker writes it
        ("generated/x.py", False),
        ("deep/generated/x.py", False),
        ("pkg/part.py", False),
        ("pkg/deep/part.py", False),
        ("other/pkg/part.py", True),
        ("scratch_1.py", False),
        ("draft.md", False),  # included and excluded
        (".git/notes.md", False),
        ("conf/live.cfg", True),
    ],
)
def test_the_configuration_includes_and_excludes_files(path: str, matters: bool) -> None:
    include = ["*.md", "data/rules.json", "written.yaml"]
    exclude = ["generated/", "./pkg", "scratch_?.py", "draft.md", "*.cfg"]
    config, save_dir = PurePath("conf/live.cfg"), PurePath("sessions")
    chosen = WatchFilter(FOLDER, config, save_dir, include, exclude)
    assert chosen.matters(FOLDER / path, {FOLDER / "written.yaml"}) == matters
