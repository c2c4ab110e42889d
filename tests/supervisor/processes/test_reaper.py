"""A look for reaper that fails: no end of the looks, nor of the stop of the instance."""

import logging

import pytest

from agentscope_supervisor.processes.reaper import Reaper
from agentscope_supervisor.system import kernel


async def test_a_look_that_fails_at_the_end_is_told_and_ends_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def children() -> set[int]:
        raise ZeroDivisionError

    monkeypatch.setattr(kernel, "become_subreaper", lambda: True)  # this process reaps for no test
    monkeypatch.setattr(kernel, "children", children)
    caplog.set_level(logging.ERROR)
    reaper = Reaper(dict)
    assert len(caplog.records) == 1
    await reaper.stop()
    assert [record.getMessage() for record in caplog.records] == ["looking for orphans failed"] * 2
