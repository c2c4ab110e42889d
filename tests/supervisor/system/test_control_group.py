"""The limits of a control group, read from folders that look like those of the kernel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentscope_supervisor.system.control_group import cpu_limit, memory_limit, oom_kills

MB = 1024 * 1024
V2 = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"


def read(reader: Callable[[Path, Path], Any], folder: Path, lines: str, files: dict[str, str]) -> Any:
    """The result of a reader for this content of /proc/self/cgroup and of /sys/fs/cgroup."""
    (folder / "cgroup").write_text(lines)
    for name, content in files.items():
        path = folder / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return reader(folder / "cgroup", folder / "fs")


@pytest.mark.parametrize(
    "lines, files, cpus",
    [
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/app/x\n", {"app/x/cpu.max": "max 100000\n", "app/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/app/x\n", {"app/x/cpu.max": "400000 100000\n", "app/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/of/the/host\n", {"cpu.max": "300000 100000\n"}, 3.0),
        ("0::/../other\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "1 0\n"}, None),
        ("0::/\n", {"cpu.max": "nonsense\n"}, None),
        (
            "3:cpu,cpuacct:/x\n0::/\n",
            {"cpu/x/cpu.cfs_quota_us": "25000\n", "cpu/x/cpu.cfs_period_us": "100000\n"},
            0.25,
        ),
        (
            "3:cpu,cpuacct:/of/the/host\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        ("4:cpuset:/\n", {"cpu.max": "50000 100000\n"}, None),
        ("", {}, None),
    ],
)
def test_the_cpu_quota_is_the_smallest_of_the_group_and_those_above(
    tmp_path: Path, lines: str, files: dict[str, str], cpus: float | None
) -> None:
    assert read(cpu_limit, tmp_path, lines, files) == cpus


@pytest.mark.parametrize(
    "lines, files, limit",
    [
        ("0::/\n", {"memory.max": f"{512 * MB}\n"}, 512),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": f"{256 * MB}\n"}, 256),
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("9:memory:/x\n0::/\n", {"memory/x/memory.limit_in_bytes": f"{128 * MB}\n"}, 128),
        ("9:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ("0::/\n", {}, None),
    ],
)
def test_the_memory_limit_is_the_smallest_of_the_group_and_those_above(
    tmp_path: Path, lines: str, files: dict[str, str], limit: float | None
) -> None:
    assert read(memory_limit, tmp_path, lines, files) == limit


@pytest.mark.parametrize(
    "lines, files, count",
    [
        ("0::/app.slice/x\n", {"app.slice/x/memory.events": V2, "memory.events": "oom_kill 9\n"}, 2),
        ("0::/of/the/host\n", {"memory.events": V2}, 2),
        ("4:memory:/x\n1:cpu:/\n0::/\n", {"memory/x/memory.oom_control": V1}, 4),
        ("4:cpu,memory:/of/the/host\n", {"memory/memory.oom_control": V1}, 4),
        ("0::/\n", {}, 0),
        ("0::/\n", {"memory.events": "low 0\n"}, 0),
        ("0::/\n", {"memory.events": "oom_kill many\n"}, 0),
        ("4:cpuset:/\n", {}, 0),
        ("", {}, 0),
    ],
    ids=["v2", "v2 in a container", "v1", "v1 in a container", "root", "old", "odd", "no memory", "none"],
)
def test_oom_kills_of_the_own_control_group_are_counted(
    tmp_path: Path, lines: str, files: dict[str, str], count: int
) -> None:
    assert read(oom_kills, tmp_path, lines, files) == count


def test_without_control_groups_there_is_no_limit_and_no_oom_kill(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert (cpu_limit(missing, tmp_path), memory_limit(missing, tmp_path)) == (None, None)
    assert oom_kills(missing, tmp_path) == 0
