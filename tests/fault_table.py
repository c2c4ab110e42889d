"""Runs every test that injects a fault, and prints the catalogue row by row: fault, outcome, time.

`make faults`, or `python -m tests.fault_table [pytest's options]` from the root of the repository. The exit
status is 0 only if every row of the catalogue has a test that really injects it, and each of them has passed
or has said why it cannot be run here. Options choose tests as usual (`-k f13`); the rows that they leave out
are not held against the run.
"""

import contextlib
import io
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import pytest

from tests.faults.catalogue import FAULTS

FAULT_WIDTH: Final = max(map(len, FAULTS.values()))


class Outcome(StrEnum):
    """Of a row. The first of those that its tests bring counts, in this order."""

    FAILED = "FAILED"
    PASSED = "passed"
    CANNOT = "cannot be injected here"
    DECIDED = "DECISION ONLY"  # its pure tests have passed, and nothing was injected
    NOT_RUN = "not run"
    NO_TEST = "NO TEST"


BAD: Final = {Outcome.FAILED, Outcome.DECIDED, Outcome.NO_TEST}
PURE: Final = ("tests/protocol/", "tests/supervisor/")  # they inject nothing, and cover a row only in part


@dataclass(slots=True)
class Ran:
    """What has been seen of one test. `seconds` include its fixtures."""

    outcome: Outcome = Outcome.NOT_RUN
    seconds: float = 0.0
    reason: str = ""  # of a skip


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    number: str
    fault: str
    outcome: Outcome
    tests: int
    seconds: float
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        line = f"{self.number}  {self.fault:{FAULT_WIDTH}}  {self.outcome:23}"
        if self.tests:
            line += f"  {self.tests:3} {'test ' if self.tests == 1 else 'tests'}  {self.seconds:6.1f} s"
        return "\n".join([line, *(f"       not here: {reason}" for reason in self.reasons)])


@dataclass(slots=True, eq=False)  # pytest keeps plugins in sets
class FaultTable:
    """A pytest plugin: collects what becomes of the tests that carry the marker `fault`."""

    rows_of: dict[str, frozenset[str]] = field(default_factory=dict)  # numbers by id of the test
    ran: defaultdict[str, Ran] = field(default_factory=lambda: defaultdict(Ran))

    @pytest.hookimpl(tryfirst=True)  # before -k and -m take tests away
    def pytest_collection_modifyitems(self, items: Sequence[pytest.Item]) -> None:
        for item in items:
            numbers = frozenset(str(n) for mark in item.iter_markers("fault") for n in mark.args)
            if unknown := numbers - FAULTS.keys():
                raise pytest.UsageError(f"{item.nodeid}: no such fault: {', '.join(sorted(unknown))}")
            if numbers:
                self.rows_of[item.nodeid] = numbers

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        ran = self.ran[report.nodeid]
        ran.seconds += report.duration
        if report.failed:
            ran.outcome = Outcome.FAILED
        elif report.skipped:
            ran.outcome = Outcome.CANNOT
            ran.reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        elif report.when == "call":
            ran.outcome = Outcome.DECIDED if report.nodeid.startswith(PURE) else Outcome.PASSED

    def rows(self) -> list[Row]:
        """The table as it stands, in the order of the catalogue."""
        return rows(FAULTS, self.rows_of, self.ran)


def rows(
    faults: Mapping[str, str], rows_of: Mapping[str, frozenset[str]], ran: Mapping[str, Ran]
) -> list[Row]:
    """The table. `rows_of`: what each test injects; `ran`: what became of those that were run."""
    table = []
    for number, fault in faults.items():
        of_row = [ran.get(test, Ran()) for test, numbers in rows_of.items() if number in numbers]
        outcomes = {each.outcome for each in of_row}
        outcome = next((each for each in Outcome if each in outcomes), Outcome.NO_TEST)
        reasons = dict.fromkeys(each.reason for each in of_row if each.reason)
        seconds = sum(each.seconds for each in of_row)
        table.append(Row(number, fault, outcome, len(of_row), seconds, tuple(reasons)))
    return table


def summary(table: Iterable[Row]) -> str:
    """How many rows came to which outcome."""
    outcomes = [row.outcome for row in table]
    return ", ".join(f"{n} {outcome}" for outcome in Outcome if (n := outcomes.count(outcome)))


def main(arguments: Sequence[str]) -> int:
    plugin = FaultTable()
    chosen = ["-q", "-m", "fault", *arguments]
    # Those who run tests side by side collect them in processes of their own, and tell only what ran.
    with contextlib.redirect_stdout(io.StringIO()):  # what is wrong is said again by the run
        pytest.main([*chosen, "-n", "0", "--collect-only"], plugins=[plugin])
    status = pytest.main(chosen, plugins=[plugin])
    table = plugin.rows()
    print(*table, "", summary(table), sep="\n")
    return int(status) or int(any(row.outcome in BAD for row in table))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
