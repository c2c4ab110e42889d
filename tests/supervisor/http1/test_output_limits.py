"""Clients that do not read, or slowly: cut below the minimum rate, and when all hold too much together."""

import asyncio
from typing import Final

from agentscope_supervisor.http1.output_limits import MIN_RATE, OutputLimits
from tests.harness.waiting import eventually

WINDOW: Final = 0.4  # seconds
ENOUGH: Final = int(MIN_RATE * WINDOW) + 1  # bytes to read in a window


class Connection:
    def __init__(self, limits: OutputLimits, size: int) -> None:
        self.size = size
        self.is_cut = False
        limits.blocked(self)

    def unsent(self) -> int:
        return self.size

    def cut(self) -> None:
        self.is_cut = True


async def test_a_client_that_reads_nothing_is_cut_after_the_window() -> None:
    limits = OutputLimits(rate_window=WINDOW)
    connection = Connection(limits, 10)
    began = asyncio.get_running_loop().time()
    await eventually(lambda: connection.is_cut, 30, "it is cut")
    assert asyncio.get_running_loop().time() - began >= WINDOW
    assert limits.total == 0


async def test_a_client_that_keeps_the_rate_is_not_cut_and_one_that_drips_is() -> None:
    limits = OutputLimits(rate_window=WINDOW)
    reads, drips = Connection(limits, 100 * ENOUGH), Connection(limits, 100 * ENOUGH)

    def read() -> bool:
        reads.size -= ENOUGH
        drips.size -= 1
        return drips.is_cut

    await eventually(read, 30, "the one that drips is cut")
    assert not reads.is_cut
    limits.unblocked(reads)
    limits.unblocked(reads)
    assert limits.total == 0


async def test_together_they_hold_no_more_than_the_limit() -> None:
    limits = OutputLimits(max_output=100)
    first, second, third = (Connection(limits, size) for size in (30, 50, 20))
    assert not any(each.is_cut for each in (first, second, third))
    last = Connection(limits, 40)
    assert [each.is_cut for each in (first, second, third, last)] == [True, True, False, False]
    assert limits.total == 60


async def test_of_those_that_hold_too_much_the_one_without_progress_for_the_longest_time_is_cut() -> None:
    limits = OutputLimits(max_output=100, rate_window=60.0)
    moves, stands = Connection(limits, 60), Connection(limits, 40)
    moves.size -= 1
    await eventually(lambda: limits._blocked[moves].size == 59, 30, "its progress is seen")
    Connection(limits, 40)
    assert (moves.is_cut, stands.is_cut) == (False, True)


async def test_a_connection_that_is_blocked_again_counts_once() -> None:
    limits = OutputLimits(max_output=100)
    connection = Connection(limits, 60)
    limits.blocked(connection)
    assert (limits.total, connection.is_cut) == (60, False)
