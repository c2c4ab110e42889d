"""The number of CPUs that this process may use, on each version of Python and each system."""

import os

import pytest

from agentscope_supervisor.system.kernel import usable_cpus


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
