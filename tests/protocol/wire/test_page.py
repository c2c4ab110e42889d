"""The page of life signs, seen from both sides of the same memory."""

import mmap

from agentscope_protocol.wire.page import PAGE_SIZE, LifePage


def test_what_one_side_ticks_the_other_sees() -> None:
    with mmap.mmap(-1, PAGE_SIZE) as memory:
        worker, supervisor = LifePage(memory), LifePage(memory)
        assert (supervisor.loop, supervisor.thread, supervisor.begun) == (0, 0, 0)
        worker.tick_loop()
        worker.tick_loop()
        worker.tick_thread()
        worker.begin(2**64 - 1)
        assert (supervisor.loop, supervisor.thread, supervisor.begun) == (2, 1, 2**64 - 1)


def test_a_counter_at_its_end_goes_on_from_zero() -> None:
    page = LifePage(bytearray(b"\xff" * 24))
    page.tick_loop()
    page.tick_thread()
    assert (page.loop, page.thread) == (0, 0)
