"""The parts of a machine that an instance takes: number of workers, memory limit, and zygote. Pure.

These are the values where agentapp.yaml leaves them open. The limits of the machine are arguments;
`system.control_group` reads them.
"""

import math
from typing import Final, Literal

from agentscope_protocol.config.setting_types import MAX_WORKERS
from agentscope_protocol.config.settings import SupervisorSettings
from agentscope_supervisor.workers.recycling import MemoryLimit

WORKERS_SHARE: Final = 0.8
"""Share of the memory limit for all workers. The rest is for the supervisor, which has 0.05 to 0.16 GB, and
for the worker that starts while another one is replaced."""

SMALLEST_LIMIT_MB: Final = 150
"""Below this, no limit is derived. A worker has 50 to 100 MB before it loads an App, so it would be replaced
again and again."""

ONE_WORKER_MB: Final = 384
"""Memory limit below which an instance with one worker has no zygote.

A reload needs 240 MB without an App, and 260 MB with a zygote. Several workers need less memory with a
zygote, because they share it.
"""


def worker_count(workers: int | Literal["auto"], cpus: int, cpu_limit: float | None) -> int:
    """Return the number of slots. `cpu_limit` is the CPU quota, in CPUs."""
    if workers != "auto":
        return workers
    usable = cpus if cpu_limit is None else min(cpus, math.ceil(cpu_limit))
    return max(1, min(usable, MAX_WORKERS))


def memory_limit(settings: SupervisorSettings, slots: int, memory_mb: float | None) -> MemoryLimit | None:
    """Return the memory above which a worker is replaced; None for no limit.

    `memory_mb` is the memory limit of the instance.
    """
    chosen = settings.max_memory_mb
    if chosen is not None:
        return MemoryLimit(chosen, f"supervisor.max_memory_mb: {chosen}")
    if "max_memory_mb" in settings.model_fields_set or memory_mb is None:
        return None
    share = memory_mb * WORKERS_SHARE / slots
    if share < SMALLEST_LIMIT_MB:
        return None
    source = f"{WORKERS_SHARE:.0%} of the control group's {memory_mb:.0f} MB, divided by the slots ({slots})"
    return MemoryLimit(share, f"{share:.0f} MB: {source}")


def zygote_fits(slots: int, memory_mb: float | None) -> bool:
    """Return whether the memory limit of the instance leaves room for a zygote."""
    return slots > 1 or memory_mb is None or memory_mb >= ONE_WORKER_MB
