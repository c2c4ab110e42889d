"""The shared page of liveness counters, accessed from both sides."""

import mmap

from agentscope_protocol.wire.page import PAGE_SIZE, LifePage


def test_a_tick_is_visible_to_the_other_side() -> None:
    with mmap.mmap(-1, PAGE_SIZE) as memory:
        worker, supervisor = LifePage(memory), LifePage(memory)
        assert (supervisor.loop, supervisor.thread, supervisor.begun) == (0, 0, 0)
        worker.tick_loop()
        worker.tick_loop()
        worker.tick_thread()
        worker.begin(2**64 - 1)
        assert (supervisor.loop, supervisor.thread, supervisor.begun) == (2, 1, 2**64 - 1)


def test_a_worker_sees_that_its_supervisor_asked_it_to_stop() -> None:
    memory = bytearray(PAGE_SIZE)
    worker, supervisor = LifePage(memory), LifePage(memory)
    assert not worker.stop_asked
    supervisor.ask_stop()
    assert worker.stop_asked
    assert (worker.loop, worker.thread, worker.begun) == (0, 0, 0)


def test_a_counter_wraps_to_zero() -> None:
    page = LifePage(bytearray(b"\xff" * 24))
    page.tick_loop()
    page.tick_thread()
    assert (page.loop, page.thread) == (0, 0)
