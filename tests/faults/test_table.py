"""The table of faults itself: what it must not let pass."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fault_table import BAD, Outcome, Ran, Row, rows

ROOT = Path(__file__).parents[2]

FAULTS = {"F01": "one", "F02": "two"}

SOME_TESTS = """
import pytest

@pytest.mark.fault("F01")
def test_that_passes():
    pass

@pytest.mark.fault("F02", "F03")
def test_that_fails():
    raise AssertionError("as it should")

@pytest.mark.fault("F03")
def test_that_passes_too():
    pass

@pytest.mark.fault("F04")
def test_that_cannot_be_run():
    pytest.skip("no systemd")

@pytest.mark.fault("F05")
def test_that_is_not_chosen():
    pass

def test_of_no_fault():
    raise AssertionError("not run")
"""


def table(folder: Path, *options: str) -> tuple[int, dict[str, str]]:
    """The status of a run in `folder`, and its rows by number."""
    command = [sys.executable, "-m", "tests.fault_table", str(folder), "-p", "no:cacheprovider", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    lines = [line for line in ended.stdout.splitlines() if line[:1] == "F" and line[1:3].isdigit()]
    assert len(lines) == 85, ended.stdout + ended.stderr
    return ended.returncode, {line[:3]: line for line in lines}


def test_each_row_says_what_became_of_its_tests(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(SOME_TESTS)
    status, lines = table(tmp_path, "-k", "not chosen")
    assert status != 0
    assert " passed " in lines["F01"]
    assert " FAILED " in lines["F02"]
    assert " FAILED " in lines["F03"], "one that passes does not make up for one that fails"
    assert " cannot be injected here " in lines["F04"]
    assert " not run " in lines["F05"]
    assert " NO TEST" in lines["F06"]


def test_a_marker_of_no_row_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text("import pytest\n\n@pytest.mark.fault('F99')\ndef test_it(): ...\n")
    assert table(tmp_path)[0] == pytest.ExitCode.USAGE_ERROR


def of_two(**ran: Ran) -> list[Row]:
    """The table of two rows: test `a` injects the first, `b` and `c` the second."""
    rows_of = {name: frozenset({"F01" if name == "a" else "F02"}) for name in ran}
    return rows(FAULTS, rows_of, ran)


def test_a_row_without_a_test_is_reported() -> None:
    first, second = of_two(a=Ran(Outcome.PASSED, 1.5))
    assert (first.outcome, first.tests, first.seconds) == (Outcome.PASSED, 1, 1.5)
    assert (second.outcome, second.tests) == (Outcome.NO_TEST, 0)
    assert second.outcome in BAD
    assert "NO TEST" in str(second)


def test_a_row_of_which_nothing_was_injected_is_not_passed() -> None:
    assert of_two(b=Ran(Outcome.DECIDED))[1].outcome in BAD
    assert of_two(b=Ran(Outcome.DECIDED), c=Ran(Outcome.PASSED))[1].outcome is Outcome.PASSED


def test_a_row_that_cannot_be_injected_says_why() -> None:
    row = of_two(b=Ran(Outcome.CANNOT, reason="needs root"), c=Ran(Outcome.DECIDED))[1]
    assert row.outcome is Outcome.CANNOT
    assert row.outcome not in BAD
    assert "needs root" in str(row)


def test_times_of_a_row_are_added() -> None:
    row = of_two(b=Ran(Outcome.PASSED, 1.0), c=Ran(Outcome.PASSED, 2.0))[1]
    assert (row.tests, row.seconds) == (2, 3.0)


def test_a_test_that_is_named_after_a_row_carries_its_marker() -> None:
    """Else it would run, and the row would be said to have no test."""
    forgotten = []
    for file in sorted(ROOT.glob("tests/**/test_*.py")):
        module = ast.parse(file.read_text("utf-8"))
        of_all = [ast.unparse(node) for node in module.body if "pytestmark =" in ast.unparse(node)]
        for node in module.body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            decorators = " ".join([*of_all, *map(ast.unparse, node.decorator_list)])
            named = {number.upper() for number in re.findall(r"(?<=_)f\d\d(?=_)", node.name)}
            if any(number not in decorators for number in named):
                forgotten.append(f"{file.name}: {node.name}")
    assert forgotten == []
