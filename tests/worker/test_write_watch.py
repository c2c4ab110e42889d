"""The audit hook that records the files which an App opens for writing."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agentscope_worker.write_watch import WriteWatch

READ, WRITE, BOTH = os.O_RDONLY | os.O_CLOEXEC, os.O_WRONLY | os.O_CREAT, os.O_RDWR


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[WriteWatch]:
    with (tmp_path / "record").open("ab") as record:
        yield WriteWatch(tmp_path / "project", record.fileno())


def recorded(tmp_path: Path) -> list[str]:
    content = (tmp_path / "record").read_text()
    return [each.removeprefix(f"{tmp_path}/project/") for each in content.split("\0")[:-1]]


def test_each_file_that_is_opened_for_writing_is_recorded_once(watch: WriteWatch, tmp_path: Path) -> None:
    project = tmp_path / "project"
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("open", (str(project / "a.py"), "w", WRITE)),
        ("open", (str(project / "a.py"), "a", WRITE)),
        ("open", (bytes(project / "b.yaml"), None, BOTH)),
        ("open", (project / "sub" / ".." / "c.toml", "r+", BOTH)),
        ("os.rename", (str(project / "d.tmp"), str(project / "d.yaml"), -1, -1)),
        ("open", (str(project / "read.py"), "r", READ)),
        ("open", (str(tmp_path / "elsewhere.py"), "w", WRITE)),
        ("open", (7, "w", WRITE)),
        ("open", (str(project / "odd.py"), "w")),
        ("import", ("json", None, None, None, None)),
    ]
    for event, arguments in calls:
        watch(event, arguments)
    assert recorded(tmp_path) == ["a.py", "b.yaml", "c.toml", "d.yaml"]


def test_code_that_the_worker_has_loaded_is_not_recorded(
    watch: WriteWatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ModuleType("own")
    own.__file__ = str(tmp_path / "project" / "own.py")
    monkeypatch.setitem(sys.modules, "own", own)
    watch("open", (own.__file__, "w", WRITE))
    assert recorded(tmp_path) == [], "an edit of loaded code replaces the worker, whoever makes it"


def test_a_record_that_cannot_be_written_fails_no_call_of_the_app(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(write_end)
    watch = WriteWatch(tmp_path / "project", read_end)
    watch("open", (str(tmp_path / "project" / "a.py"), "w", WRITE))
    os.close(read_end)
