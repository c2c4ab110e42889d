"""A terminal that was closed, told apart from one that was never there."""

import signal

import pytest

from agentscope_supervisor.system import signals


@pytest.mark.parametrize(
    "before, after, ignored, closed",
    [
        (True, False, False, True),
        (True, True, False, False),  # an operator has sent HUP
        (False, False, False, False),  # started without a terminal
        (True, False, True, False),  # started with nohup
    ],
)
def test_a_terminal_is_closed_if_it_was_there_before(
    before: bool, after: bool, ignored: bool, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = signal.SIG_IGN if ignored else signal.SIG_DFL
    monkeypatch.setattr(signal, "getsignal", lambda _: action)
    monkeypatch.setattr(signals, "_has_terminal", lambda: before)
    terminal = signals.Terminal()
    monkeypatch.setattr(signals, "_has_terminal", lambda: after)
    assert terminal.is_closed == closed
