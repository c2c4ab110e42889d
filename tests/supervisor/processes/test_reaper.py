"""A failing poll for orphan processes ends neither the polling nor the stop of the instance."""

import logging

import pytest

from agentscope_supervisor.processes.reaper import Reaper
from agentscope_supervisor.system import kernel


async def test_a_failing_poll_is_logged_and_does_not_stop_the_reaper(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def children() -> set[int]:
        raise ZeroDivisionError

    monkeypatch.setattr(kernel, "become_subreaper", lambda: True)  # without making this process a subreaper
    monkeypatch.setattr(kernel, "children", children)
    caplog.set_level(logging.ERROR)
    reaper = Reaper(dict)
    assert len(caplog.records) == 1
    await reaper.stop()
    assert [record.getMessage() for record in caplog.records] == ["poll for orphan processes failed"] * 2
