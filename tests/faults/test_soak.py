"""A short soak with a seed of its own; `make soak` is the long one."""

import os
from pathlib import Path

import pytest

from tests.soak.run import run


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("store", ["redis", "json"])
def test_under_load_and_chaos_no_turn_and_no_update_is_lost(tmp_path: Path, store: str) -> None:
    seed = os.urandom(4).hex()  # in the report of a failure, as all that the run prints
    print(f"SEED={seed}")
    assert run(tmp_path, seconds=20.0, seed=seed, sessions=60, workers=2, store=store)
