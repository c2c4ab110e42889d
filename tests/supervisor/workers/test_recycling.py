"""When a process is recycled, in virtual time."""

from agentscope_supervisor.workers.recycling import REQUEST_AGAIN_AFTER, MemoryLimit, Recycling


def test_a_process_is_recycled_after_max_turns() -> None:
    recycling = Recycling(max_turns=10, memory=None)
    recycling.started(1, 0.5)
    assert [recycling.dispatched(1, 0.0) for _ in range(9)] == [None] * 9
    assert recycling.dispatched(1, 0.0) == "it has had 10 turns, supervisor.max_turns"


def test_max_turns_has_ten_percent_of_jitter() -> None:
    for chance, most in ((0.0, 90), (0.999, 110)):
        recycling = Recycling(max_turns=100, memory=None)
        recycling.started(1, chance)
        turns = 1
        while recycling.dispatched(1, 0.0) is None:
            turns += 1
        assert turns == most


def test_a_process_gets_at_least_one_turn() -> None:
    recycling = Recycling(max_turns=1, memory=None)
    recycling.started(1, 0.0)
    assert recycling.dispatched(1, 0.0)


def test_a_changed_limit_applies_to_running_processes() -> None:
    recycling = Recycling(max_turns=None, memory=None)
    recycling.started(1, 0.5)
    assert recycling.dispatched(1, 0.0) is None
    recycling.max_turns = 2
    assert recycling.dispatched(1, 0.0)
    recycling.max_turns = None
    assert recycling.dispatched(1, 2 * REQUEST_AGAIN_AFTER) is None


def test_a_replacement_is_requested_again_only_after_a_delay() -> None:
    recycling = Recycling(max_turns=1, memory=None)
    recycling.started(1, 0.5)
    assert recycling.dispatched(1, 5.0)
    assert recycling.dispatched(1, 5.0 + REQUEST_AGAIN_AFTER - 1) is None
    assert recycling.dispatched(1, 5.0 + REQUEST_AGAIN_AFTER)


def test_a_process_is_recycled_above_max_memory() -> None:
    recycling = Recycling(max_turns=None, memory=MemoryLimit(512, "the limit"))
    recycling.started(1, 0.5)
    assert recycling.measured(1, 512.0, 0.0) is None
    assert recycling.measured(1, 512.6, 0.0) == "it uses 513 MB, more than the limit"


def test_without_limits_only_a_request_of_the_process_counts() -> None:
    recycling = Recycling(max_turns=None, memory=None)
    recycling.started(1, 0.5)
    assert recycling.dispatched(1, 0.0) is recycling.measured(1, 1e6, 0.0) is None
    assert recycling.requested(1, "it is out of memory", 0.0) == "it is out of memory"
    assert recycling.requested(1, "it is out of memory", 1.0) is None


def test_a_measurement_after_the_exit_is_ignored() -> None:
    recycling = Recycling(max_turns=None, memory=MemoryLimit(1, "1 MB"))
    recycling.started(1, 0.5)
    recycling.exited(1)
    assert recycling.measured(1, 2.0, 0.0) is None
