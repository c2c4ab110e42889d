"""The number of workers that the settings request."""

import pytest

from agentscope_protocol.config.settings import load
from agentscope_supervisor.system import control_group, kernel
from agentscope_supervisor.workers.controller import worker_count


@pytest.mark.parametrize("workers, quota, expected", [("3", 0.5, 3), ("auto", None, 5), ("auto", 1.5, 2)])
def test_auto_is_one_worker_per_cpu_that_the_instance_may_use(
    workers: str, quota: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "usable_cpus", lambda: 5)
    monkeypatch.setattr(control_group, "cpu_limit", lambda: quota)
    settings = load(f"supervisor: {{workers: {workers}}}", source="agentapp.yaml", env={})
    assert worker_count(settings) == expected
