"""Strangers attack in every way at the same time, and clients with the token notice nothing. See `siege`."""

from pathlib import Path

from tests.security import siege

SECONDS = 8.0


def test_every_turn_of_a_client_is_answered_while_strangers_attack(tmp_path: Path) -> None:
    result = siege.run(tmp_path, SECONDS, seed="test")
    assert not result.faults(SECONDS / 60), str(result)
