"""What `make test` does about tests that fail: they are asked again, alone, and no others."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.harness.instance import environment

pytestmark = pytest.mark.supervisor_only

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
    """Runs the tests of a folder as the Makefile runs those of the project, with this as ARGS."""
    recipe = "$(call TESTED,$(BIN),test_it.py)"
    (tmp_path / "Makefile").write_text(f"include {MAKEFILE}\nit:\n\t{recipe}\n")
    (tmp_path / "test_it.py").write_text(TESTS)

    def run(args: str) -> subprocess.CompletedProcess[str]:
        bin_folder = Path(sys.executable).parent
        # Not the options of who makes these tests, and no more of pytest than is at work here.
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


def test_what_fails_beside_others_is_asked_again_alone(make: Make) -> None:
    made = make("-k 'first or well'")
    beside, alone = made.stdout.split("now alone:")
    assert "1 failed, 1 passed" in beside
    assert "1 passed" in alone
    assert made.returncode == 0


def test_what_fails_alone_too_is_a_failure(make: Make) -> None:
    made = make("-k 'fails'")
    beside, alone = made.stdout.split("now alone:")
    assert "2 failed" in beside
    assert "1 failed, 1 passed" in alone
    assert made.returncode != 0


def test_what_was_not_asked_for_is_not_asked_again(make: Make) -> None:
    assert make("-k 'fails and not first'").returncode != 0  # it is remembered
    assert make("-k first").returncode == 0


def test_many_failures_are_the_end(make: Make) -> None:
    made = make("-k 'fails' --maxfail 2")  # as six without it
    assert "2 failed" in made.stdout
    assert "now alone:" not in made.stdout
    assert made.returncode != 0
