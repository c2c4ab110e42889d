"""A pytest plugin: tells a run in which only tests marked `timed` failed from other failed runs.

A timed test checks a time limit that a machine may miss while it runs other tests. `make test` loads the
plugin and runs such tests again, alone. Any other failure fails the run.
"""

from collections.abc import Iterator
from typing import Final

import pytest

ONLY_TIMED: Final = 85
"""Exit status of a run in which only timed tests failed. pytest itself uses 0 to 5."""

_failed: list[bool] = []  # for each failed report, whether its test is timed


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.append("timed" in report.keywords)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Iterator[None]:
    yield
    if exitstatus == pytest.ExitCode.TESTS_FAILED and _failed and all(_failed):
        session.exitstatus = ONLY_TIMED
