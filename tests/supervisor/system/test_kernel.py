"""What the supervisor asks of the kernel: usable CPUs, pages that workers cannot resize, and its children."""

import os
import sys

import pytest

from agentscope_supervisor.system.kernel import on_exit_of_adopted, shared_file, usable_cpus


def test_the_count_of_python_is_used_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: 3, raising=False)
    assert usable_cpus() == 3


def test_without_it_the_affinity_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 4}, raising=False)
    assert usable_cpus() == 2


@pytest.mark.parametrize("found, expected", [(8, 8), (None, 1)])
def test_without_an_affinity_all_cpus_are_counted(
    found: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: found)
    assert usable_cpus() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has seals")
def test_a_worker_cannot_change_the_size_of_its_page() -> None:
    """A read beyond the end of a mapped file kills the reader, which is the supervisor."""
    page = shared_file(4096)
    try:
        for size in (0, 8192):
            with pytest.raises(PermissionError):
                os.ftruncate(page, size)
        assert os.pwrite(page, b"x" * 8, 0) == 8
    finally:
        os.close(page)


@pytest.mark.parametrize("pid", [0, -1, 2**31, 10**30, 1, os.getppid()])
async def test_a_pid_that_is_no_child_is_not_adopted(pid: int) -> None:
    """The pid comes from a zygote; the supervisor would later kill this process and its group."""
    with pytest.raises(OSError, match=r"not the pid of a child|No child processes"):
        on_exit_of_adopted(pid, lambda status: None)
