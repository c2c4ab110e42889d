"""The number of workers that the settings request."""

import os

import pytest

from agentscope_protocol.config.setting_types import MAX_WORKERS
from agentscope_protocol.config.settings import load
from agentscope_supervisor.workers.controller import worker_count


@pytest.mark.parametrize(
    "workers, cpus, expected", [("3", 1, 3), ("auto", 5, 5), ("auto", MAX_WORKERS + 1, MAX_WORKERS)]
)
def test_auto_is_one_worker_per_cpu_up_to_the_maximum(
    workers: str, cpus: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)
    settings = load(f"supervisor: {{workers: {workers}}}", source="agentapp.yaml", env={})
    assert worker_count(settings) == expected
