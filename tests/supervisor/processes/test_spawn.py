"""What a worker inherits from the supervisor: its environment, and the path of the project."""

import os
from pathlib import Path

import pytest

from agentscope_supervisor.processes.spawn import environment, path_for_worker


def test_workers_run_in_utf_8_mode_whatever_the_supervisor_runs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    monkeypatch.setenv("LANG", "zh_CN.GBK")
    variables = environment()
    assert variables["PYTHONUTF8"] == "1"
    assert "PYTHONIOENCODING" not in variables
    assert variables["LANG"] == "zh_CN.GBK", "programs that an App starts keep the locale"


def test_a_path_is_passed_to_workers_as_its_bytes_mean_in_utf_8() -> None:
    assert path_for_worker(Path("/srv/магазин")) == "/srv/магазин"
    not_utf_8 = os.fsdecode("/srv/项目".encode("gbk"))
    assert path_for_worker(Path(not_utf_8)) == "/srv/项目".encode("gbk")
