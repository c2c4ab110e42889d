"""The limits of a real control group, where this machine lets the tests make one."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.harness.instance import Instance

FOLDER: Final = Path("/sys/fs/cgroup")
QUOTA: Final = {"cpu.max": "50000 100000", "cpu.cfs_quota_us": "50000"}  # half a CPU, with the usual period

READ: Final = """
import json
from agentscope_supervisor.system import control_group
print(json.dumps([control_group.cpu_limit(), control_group.memory_limit()]))
"""


@pytest.fixture
def half_a_cpu() -> Iterator[Path | None]:
    """A control group with half a CPU; None if the tests may not make one."""
    parent = FOLDER / "cpu" if (FOLDER / "cpu").exists() else FOLDER
    group = parent / f"agentscope-test-{os.getpid()}"
    made = None
    with contextlib.suppress(OSError):
        group.mkdir()
        for name, quota in QUOTA.items():
            if (group / name).exists():
                (group / name).write_text(quota)
                made = group
    yield made
    if group.exists():
        while pids := (group / "cgroup.procs").read_text().split():
            for pid in pids:
                with contextlib.suppress(OSError):  # it has just ended
                    (parent / "cgroup.procs").write_text(pid)
        group.rmdir()


def test_half_a_cpu_is_one_worker(
    half_a_cpu: Path | None, make_project: Callable[..., Path], new_instance: Callable[..., Instance]
) -> None:
    if half_a_cpu is None:  # the limits of the group that this process is in can be read at least
        printed = subprocess.run([sys.executable, "-c", READ], capture_output=True, check=True).stdout
        assert all(limit is None or limit > 0 for limit in json.loads(printed))
        return
    enter = ["sh", "-c", f'echo $$ > {half_a_cpu}/cgroup.procs; exec "$@"', "sh"]
    instance = new_instance(make_project(), workers=1, arguments=["--workers", "auto"], under=enter).start()
    assert len(instance.workers()) == 1
    assert "slots=1" in instance.log
