"""How `make test` treats failed tests: a timed test runs again, alone; any other test fails the run."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.harness.instance import environment

ROOT: Final = Path(__file__).parents[2]
TESTS: Final = """
from pathlib import Path

import pytest


def fails_at_first(word):
    seen = Path(word)
    if not seen.exists():
        seen.touch()
        assert False


@pytest.mark.timed
def test_fails_at_first():
    fails_at_first("timed")


def test_plain_fails_at_first():
    fails_at_first("plain")


@pytest.fixture
def fails_in_setup():
    fails_at_first("setup")


def test_plain_setup(fails_in_setup):
    pass


@pytest.mark.timed
def test_fails():
    assert False


def test_is_well():
    pass
"""
Make = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Runs the tests of a folder as the Makefile runs the project's tests, with the given ARGS."""
    recipe = "$(call TESTED,$(BIN),test_it.py)"
    (tmp_path / "Makefile").write_text(f"include {ROOT / 'Makefile'}\nit:\n\t{recipe}\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = timed\n")

    def run(args: str) -> subprocess.CompletedProcess[str]:
        bin_folder = Path(sys.executable).parent
        # The options of the outer make and further pytest plugins must not take effect.
        plugins = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p xdist.plugin"}
        return subprocess.run(
            ["make", "--silent", "it", f"BIN={bin_folder}", "JOBS=2", f"ARGS={args}"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment(MAKEFLAGS="", MAKELEVEL="0", PYTHONPATH=str(ROOT), **plugins),
            timeout=100,
            check=False,
        )

    return run


def test_a_timed_test_that_fails_beside_others_runs_again_alone(make: Make) -> None:
    made = make("-k 'test_fails_at_first or well'")
    beside, alone = made.stdout.split("now alone:")
    assert "1 failed, 1 passed" in beside
    assert "1 passed" in alone
    assert made.returncode == 0


@pytest.mark.parametrize("chosen", ["plain_fails", "plain_setup", "'plain_fails or test_fails_at_first'"])
def test_any_other_test_that_fails_beside_others_fails_the_run(make: Make, chosen: str) -> None:
    made = make(f"-k {chosen}")
    assert "now alone:" not in made.stdout
    assert made.returncode != 0


def test_what_fails_alone_too_is_a_failure(make: Make) -> None:
    made = make("-k 'test_fails'")
    beside, alone = made.stdout.split("now alone:")
    assert "2 failed" in beside
    assert "1 failed, 1 passed" in alone
    assert made.returncode != 0


def test_what_was_not_asked_for_is_not_asked_again(make: Make) -> None:
    assert make("-k 'test_fails and not first'").returncode != 0  # it is remembered
    assert make("-k test_fails_at_first").returncode == 0


def test_many_failures_are_the_end(make: Make) -> None:
    made = make("-k 'test_fails' --maxfail 2")  # as six without it
    assert "2 failed" in made.stdout
    assert "now alone:" not in made.stdout
    assert made.returncode != 0
