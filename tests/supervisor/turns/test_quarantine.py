"""Strikes in virtual time: who is refused, for how long, and who is forgiven."""

from typing import Final

from agentscope_supervisor.domain.errors import ErrorCode
from agentscope_supervisor.turns.quarantine import MAX_KEPT, REFUSED_FOR, Quarantine

BAD: Final = ("s", b"deadly")
FINE: Final = ("s", b"fine")


def test_a_message_is_refused_after_two_deaths_and_others_of_its_session_are_not() -> None:
    poison = Quarantine()
    assert not poison.lost(*BAD, 0.0)
    assert poison.refusal(*BAD, 1.0) is None
    assert poison.lost(*BAD, 1.0), "the second one is no chance"
    failure = poison.refusal(*BAD, 1.0)
    assert failure is not None
    assert (failure.code, failure.status, failure.retryable) == (ErrorCode.POISONED, 422, False)
    assert "the worker crashed 2 times in a row while it ran this message" in failure.message
    assert poison.refusal(*FINE, 1.0) is None
    assert poison.refusal("other", BAD[1], 1.0) is None


def test_a_session_is_refused_after_three_deaths_with_whatever_message() -> None:
    poison = Quarantine()
    assert [poison.lost("s", b"%d" % number, 0.0) for number in range(3)] == [False, False, True]
    failure = poison.refusal("s", b"another", 0.0)
    assert failure is not None
    assert "this session" in failure.message
    assert poison.refusal("t", b"0", 0.0) is None


def test_what_is_refused_is_tried_again_after_a_while_and_starts_from_nothing() -> None:
    poison = Quarantine()
    poison.lost(*BAD, 0.0)
    poison.lost(*BAD, 5.0)
    assert poison.refusal(*BAD, 5.0 + REFUSED_FOR - 0.1) is not None
    assert poison.refusal(*BAD, 5.0 + REFUSED_FOR) is None
    assert not poison.lost(*BAD, 5.0 + REFUSED_FOR)
    assert poison.refusal(*BAD, 5.0 + REFUSED_FOR) is None


def test_a_turn_that_ends_takes_the_strikes_back() -> None:
    poison = Quarantine()
    poison.lost(*BAD, 0.0)
    poison.lost("t", b"beside it", 0.0)
    poison.survived("t", b"beside it")
    poison.lost(*BAD, 1.0)
    poison.lost("t", b"beside it", 1.0)
    assert poison.refusal("t", b"beside it", 1.0) is None
    poison.survived(*BAD)
    poison.survived("t", b"beside it")
    assert poison.refusal(*BAD, 1.0) is None
    assert len(poison) == 0


def test_what_is_kept_has_a_bound_and_the_oldest_goes_first() -> None:
    poison = Quarantine()
    poison.lost(*BAD, 0.0)
    poison.lost(*BAD, 0.0)
    for number in range(MAX_KEPT // 2):
        poison.lost(f"s{number}", b"x", 1.0)
    assert len(poison) == MAX_KEPT
    assert poison.refusal(*BAD, 1.0) is None
