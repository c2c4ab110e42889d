"""How much memory processes use together: PSS, in which a page that n processes share counts as 1/n to each.

So that workers which are copies of one process are not counted as if each had its own. Blocks: a look takes
a millisecond or more for each process, and is made in a thread.
"""

from collections.abc import Iterable
from typing import Final

MB: Final = 1024 * 1024


def used_mb(pids: Iterable[int]) -> float:
    """MB of all these processes; those that have ended count nothing."""
    return sum(_used(pid) for pid in pids) / MB


def _used(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
            for line in rollup:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:  # it has ended, or this is no Linux, or a sandbox without the file
        pass
    return _used_elsewhere(pid)


def _used_elsewhere(pid: int) -> int:
    import psutil  # 3 MB that are not needed on Linux

    try:
        process = psutil.Process(pid)
        try:
            # What no other process has; macOS knows no shares.
            return int(process.memory_full_info().uss)
        except psutil.AccessDenied:
            return int(process.memory_info().rss)
    except psutil.Error:
        return 0
