"""When a process is worn, in virtual time."""

from agentscope_supervisor.workers.recycling import ASK_AGAIN_AFTER, Recycling


def test_a_process_is_worn_when_it_has_had_its_turns() -> None:
    wear = Recycling(max_turns=10, max_memory_mb=None)
    wear.started(1, 0.5)
    assert [wear.turn(1, 0.0) for _ in range(9)] == [None] * 9
    assert wear.turn(1, 0.0) == "it has had 10 turns, supervisor.max_turns"


def test_the_number_of_turns_has_ten_per_cent_of_jitter_either_way() -> None:
    for chance, most in ((0.0, 90), (0.999, 110)):
        wear = Recycling(max_turns=100, max_memory_mb=None)
        wear.started(1, chance)
        turns = 1
        while wear.turn(1, 0.0) is None:
            turns += 1
        assert turns == most


def test_one_turn_at_least() -> None:
    wear = Recycling(max_turns=1, max_memory_mb=None)
    wear.started(1, 0.0)
    assert wear.turn(1, 0.0)


def test_a_limit_that_changes_holds_for_those_that_run() -> None:
    wear = Recycling(max_turns=None, max_memory_mb=None)
    wear.started(1, 0.5)
    assert wear.turn(1, 0.0) is None
    wear.max_turns = 2
    assert wear.turn(1, 0.0)
    wear.max_turns = None
    assert wear.turn(1, 2 * ASK_AGAIN_AFTER) is None


def test_what_was_asked_for_is_asked_again_after_a_while_only() -> None:
    wear = Recycling(max_turns=1, max_memory_mb=None)
    wear.started(1, 0.5)
    assert wear.turn(1, 5.0)
    assert wear.turn(1, 5.0 + ASK_AGAIN_AFTER - 1) is None
    assert wear.turn(1, 5.0 + ASK_AGAIN_AFTER)


def test_a_process_is_worn_when_it_is_larger_than_it_may_be() -> None:
    wear = Recycling(max_turns=None, max_memory_mb=512)
    wear.started(1, 0.5)
    assert wear.memory(1, 512.0, 0.0) is None
    assert wear.memory(1, 512.6, 0.0) == "it holds 513 MB, over supervisor.max_memory_mb: 512"


def test_without_limits_nothing_wears_but_what_a_process_says_itself_counts() -> None:
    wear = Recycling(max_turns=None, max_memory_mb=None)
    wear.started(1, 0.5)
    assert wear.turn(1, 0.0) is wear.memory(1, 1e6, 0.0) is None
    assert wear.said(1, "it is out of memory", 0.0) == "it is out of memory"
    assert wear.said(1, "it is out of memory", 1.0) is None


def test_a_look_at_the_memory_may_come_after_the_end() -> None:
    wear = Recycling(max_turns=None, max_memory_mb=1)
    wear.started(1, 0.5)
    wear.gone(1)
    assert wear.memory(1, 2.0, 0.0) is None
