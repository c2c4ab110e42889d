"""The exit status of a process as text."""

import pytest

from agentscope_supervisor.workers.process import status_name


@pytest.mark.parametrize(
    "status, name", [(0, "exit 0"), (78, "exit 78"), (-9, "SIGKILL"), (-11, "SIGSEGV"), (-40, "signal 40")]
)
def test_an_exit_status_is_a_code_or_the_name_of_a_signal(status: int, name: str) -> None:
    assert status_name(status) == name
