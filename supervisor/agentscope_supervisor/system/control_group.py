"""The control group of this process: its CPU quota, its memory limit, and its OOM kills.

A container runtime or systemd limits an instance by its control group. The number of CPUs and the memory that
the machine reports do not show these limits. A limit of any group above applies too, so the smallest one
counts. Reads both versions of control groups. The files are in memory, so a read does not wait for a disk.

Sources: cgroups(7); cgroup-v2, sched-bwc and memory in the documentation of the kernel.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc/self/cgroup")
ROOT: Final = Path("/sys/fs/cgroup")

MB: Final = 1024 * 1024
UNLIMITED_MB: Final = 2**40  # version 1 reports "no limit" as a number of bytes near 2**63


def cpu_limit(proc: Path = PROC, root: Path = ROOT) -> float | None:
    """Return the CPU quota in CPUs, such as 0.5; None if there is none."""
    limits = []
    for folder in _folders("cpu", proc, root):
        first_version = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        match _words(folder / "cpu.max") or first_version:
            case [quota, period] if quota.isdecimal() and period.isdecimal() and int(period):
                limits.append(int(quota) / int(period))
    return min(limits, default=None)


def memory_limit(proc: Path = PROC, root: Path = ROOT) -> float | None:
    """Return the memory limit in MB; None if there is none."""
    limits = []
    for folder in _folders("memory", proc, root):
        match _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes"):
            case [limit] if limit.isdecimal() and int(limit) < UNLIMITED_MB * MB:
                limits.append(int(limit) / MB)
    return min(limits, default=None)


def oom_kills(proc: Path = PROC, root: Path = ROOT) -> int:
    """Return how many processes of this control group the kernel has killed because it ran out of memory.

    Returns 0 if the kernel does not report the number.
    """
    folders = list(_folders("memory", proc, root))
    # In a container, the path may be that of the host, while the mount starts at the container's group.
    for folder in {folders[0]: None, folders[-1]: None} if folders else ():
        words = _words(folder / "memory.events") or _words(folder / "memory.oom_control")
        fields = dict(zip(words[::2], words[1::2], strict=False))
        if fields.get("oom_kill", "").isdecimal():
            return int(fields["oom_kill"])
    return 0


def _folders(controller: str, proc: Path, root: Path) -> Iterator[Path]:
    """Yield the folder of the own group of a controller, then those of the groups above it.

    Some of them may not exist: in a container, the path may be that of the host.
    """
    mount, group = None, ""
    for controllers, path in _groups(proc):
        if controller in controllers.split(","):
            mount, group = root / controller, path
            break
        if not controllers:  # version 2; the line of version 1 counts if the controller has one
            mount, group = root, path
    if mount is None:
        return
    parts = [part for part in group.split("/") if part]
    if ".." in parts:  # the group is outside the namespace of this process
        parts = []
    for count in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:count])


def _groups(proc: Path) -> Iterator[tuple[str, str]]:
    """Yield the controllers and the path of each group: "" names the controllers of version 2."""
    try:
        text = proc.read_text()
    except OSError:
        return
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        yield controllers, path


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
