"""Makes `agentscope_runtime` importable in these tests, as a worker does."""

from pathlib import Path

import pytest

from agentscope_worker.agentapp import finder
from agentscope_worker.runtime.compat.majors import seam

finder.install()


@pytest.fixture(scope="session", autouse=True)
def _agentscope() -> None:
    """Import AgentScope before the first test, so that no deadline in a test has to allow for it."""
    seam()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder run on both majors of AgentScope."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.agentscope)
