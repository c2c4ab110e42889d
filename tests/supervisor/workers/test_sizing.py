"""What an instance takes of its machine where the configuration leaves it open."""

from typing import Any, Literal

import pytest

from agentscope_protocol.config.setting_types import MAX_WORKERS
from agentscope_protocol.config.settings import SupervisorSettings
from agentscope_supervisor.workers import sizing
from agentscope_supervisor.workers.recycling import MemoryLimit


@pytest.mark.parametrize(
    "workers, cpus, cpu_limit, expected",
    [
        (3, 1, 0.5, 3),
        ("auto", 5, None, 5),
        ("auto", 2, 0.5, 1),  # half a CPU is one worker
        ("auto", 8, 1.5, 2),
        ("auto", 8, 2.0, 2),
        ("auto", 2, 64.0, 2),
        ("auto", MAX_WORKERS + 1, None, MAX_WORKERS),
    ],
)
def test_auto_is_one_worker_per_cpu_of_the_quota(
    workers: int | Literal["auto"], cpus: int, cpu_limit: float | None, expected: int
) -> None:
    assert sizing.worker_count(workers, cpus, cpu_limit) == expected


@pytest.mark.parametrize(
    "chosen, slots, memory_mb, expected",
    [
        ({}, 2, None, None),
        (
            {},
            2,
            1024.0,
            MemoryLimit(409.6, "410 MB: 80% of the control group's 1024 MB, divided by the slots (2)"),
        ),
        (
            {},
            1,
            512.0,
            MemoryLimit(409.6, "410 MB: 80% of the control group's 512 MB, divided by the slots (1)"),
        ),
        ({}, 4, 512.0, None),  # 102 MB is hardly more than a worker without an App has
        ({"max_memory_mb": 300}, 2, 1024.0, MemoryLimit(300, "supervisor.max_memory_mb: 300")),
        ({"max_memory_mb": None}, 2, 1024.0, None),
    ],
)
def test_the_memory_limit_of_a_worker_says_whether_it_is_a_share_or_set_in_the_file(
    chosen: dict[str, Any], slots: int, memory_mb: float | None, expected: MemoryLimit | None
) -> None:
    settings = SupervisorSettings.model_validate(chosen)
    assert sizing.memory_limit(settings, slots, memory_mb) == expected


@pytest.mark.parametrize(
    "slots, memory_mb, fits", [(1, None, True), (1, 512.0, True), (1, 256.0, False), (2, 256.0, True)]
)
def test_one_worker_in_little_memory_has_no_zygote(slots: int, memory_mb: float | None, fits: bool) -> None:
    assert sizing.zygote_fits(slots, memory_mb) == fits
