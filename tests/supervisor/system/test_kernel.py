"""Reading the number of OOM kills from both versions of control groups."""

from pathlib import Path

import pytest

from agentscope_supervisor.system.kernel import oom_kills


def groups(root: Path, lines: str, files: dict[str, str]) -> int:
    (root / "cgroup").write_text(lines)
    for name, content in files.items():
        path = root / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return oom_kills(root / "cgroup", root / "fs")


V2 = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"


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
    assert groups(tmp_path, lines, files) == count


def test_without_control_groups_the_count_is_zero(tmp_path: Path) -> None:
    assert oom_kills(tmp_path / "missing", tmp_path) == 0
