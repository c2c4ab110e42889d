"""The Makefile's handling of failed tests: only those run again, alone."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.harness.instance import environment

MAKEFILE: Final = Path(__file__).parents[2] / "Makefile"
TESTS: Final = """
from pathlib import Path


def test_fails_at_first():
    seen = Path("seen")
    if not seen.exists():
        seen.touch()
        assert False


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
    (tmp_path / "Makefile").write_text(f"include {MAKEFILE}\nit:\n\t{recipe}\n")
    (tmp_path / "test_it.py").write_text(TESTS)

    def run(args: str) -> subprocess.CompletedProcess[str]:
        bin_folder = Path(sys.executable).parent
        # The options of the outer make and further pytest plugins must not take effect.
        plugins = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p xdist.plugin"}
        return subprocess.run(
            ["make", "--silent", "it", f"BIN={bin_folder}", "JOBS=2", f"ARGS={args}"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment(MAKEFLAGS="", MAKELEVEL="0", **plugins),
            timeout=100,
            check=False,
        )

    return run


def test_a_test_that_fails_in_parallel_runs_again_alone(make: Make) -> None:
    made = make("-k 'first or well'")
    beside, alone = made.stdout.split("now alone:")
    assert "1 failed, 1 passed" in beside
    assert "1 passed" in alone
    assert made.returncode == 0


def test_a_test_that_fails_alone_fails_the_run(make: Make) -> None:
    made = make("-k 'fails'")
    beside, alone = made.stdout.split("now alone:")
    assert "2 failed" in beside
    assert "1 failed, 1 passed" in alone
    assert made.returncode != 0


def test_only_tests_of_this_run_run_again(make: Make) -> None:
    assert make("-k 'fails and not first'").returncode != 0  # pytest remembers the failure
    assert make("-k first").returncode == 0


def test_many_failures_end_the_run(make: Make) -> None:
    made = make("-k 'fails' --maxfail 2")  # the default is 6
    assert "2 failed" in made.stdout
    assert "now alone:" not in made.stdout
    assert made.returncode != 0
