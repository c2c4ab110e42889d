"""How wrong tokens slow down their senders, in virtual time."""

from agentscope_supervisor.web.access.guesses import (
    FREE_GUESSES,
    GUESSES_PER_SECOND,
    MAX_ADDRESSES,
    MAX_DELAY,
    GuessLimits,
)

FREE = int(FREE_GUESSES)


def after(guesses: int, address: str = "a") -> GuessLimits:
    limits = GuessLimits()
    for _ in range(guesses):
        limits.wrong(address, 0.0)
    return limits


def test_the_first_wrong_tokens_are_free_and_later_ones_wait() -> None:
    limits = GuessLimits()
    delays = [limits.wrong("a", 0.0) for _ in range(FREE + 3)]
    assert delays == [0.0] * (FREE + 1) + [1 / GUESSES_PER_SECOND, 2 / GUESSES_PER_SECOND]
    assert limits.wrong("b", 0.0) == 3 / GUESSES_PER_SECOND, "for all addresses together"


def test_a_token_of_an_address_that_guesses_is_checked_later() -> None:
    limits = after(FREE + 2)
    assert limits.check_after("a", 0.0) == 2 / GUESSES_PER_SECOND
    assert limits.check_after("a", 0.5) == 2 / GUESSES_PER_SECOND - 0.5
    assert limits.check_after("a", 60.0) == limits.check_after("b", 0.0) == 0.0


def test_the_delay_has_a_maximum_and_ends_soon_after_the_last_guess() -> None:
    limits = after(10_000)
    assert limits.check_after("a", 0.0) == limits.wrong("a", 0.0) == MAX_DELAY
    assert limits.check_after("a", MAX_DELAY) == 0.0


def test_an_address_that_has_sent_a_right_token_is_never_checked_later() -> None:
    limits = after(FREE + 10)
    limits.right("a")
    limits.right("a")
    assert limits.check_after("a", 0.0) == 0.0
    assert limits.wrong("a", 0.0) > 0.0, "the answer to a wrong one still waits"
    assert limits.check_after("a", 0.0) == 0.0


def test_clients_without_an_address_come_through_a_proxy() -> None:
    assert after(FREE + 10, "").check_after("", 0.0) == 0.0


def test_a_limited_number_of_addresses_is_remembered() -> None:
    limits = after(FREE + 10)
    for number in range(MAX_ADDRESSES):
        limits.wrong(str(number), 0.0)
    assert limits.check_after("a", 0.0) == 0.0
    for number in range(MAX_ADDRESSES + 10):
        limits.right(f"known {number}")
    for _ in range(FREE + 10):
        limits.wrong("known 0", 0.0)
        limits.wrong(f"known {MAX_ADDRESSES}", 0.0)
    assert limits.check_after("known 0", 0.0) > 0.0
    assert limits.check_after(f"known {MAX_ADDRESSES}", 0.0) == 0.0
