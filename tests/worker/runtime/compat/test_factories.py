"""Ids and timestamps of AgentScope's messages: our factories are used, with AgentScope's formats."""

import time
from datetime import datetime
from unittest.mock import patch

import agentscope
import pytest
from agentscope.message import TextBlock

from agentscope_protocol.wire import random_ids
from agentscope_worker.runtime.compat import majors
from tests.worker.agents import MAJOR

pytestmark = [
    pytest.mark.agentscope2,
    pytest.mark.skipif(MAJOR == 1, reason="1.x has no factories of ids and times"),
]

majors.seam().adapt("bypass")


def test_an_id_comes_from_the_batch() -> None:
    random_ids.new_id()  # so that a batch exists
    random_ids._batch.append("a" * 32)
    assert TextBlock(text="x").id == "a" * 32


@pytest.mark.parametrize("microsecond", [0, 1, 999, 120_000, 999_999])
def test_timestamps_have_the_isoformat_of_python(microsecond: int) -> None:
    for second in (
        1_700_000_000,
        1_700_000_000,
        1_700_000_001,
    ):  # new, same, next second
        with patch.object(time, "time_ns", lambda at=second: at * 10**9 + microsecond * 1000 + 999):
            written = TextBlock(text="x").created_at
        assert written == datetime.fromtimestamp(second).replace(microsecond=microsecond).isoformat()


def test_factories_of_the_author_are_kept() -> None:
    from agentscope_worker.runtime.compat import factories2

    common = agentscope._utils._common
    with patch.multiple(common, _id_factory=lambda: "mine", _timestamp_factory=lambda: "then"):
        factories2.set_factories()  # set before the start
        majors.seam().adapt("bypass")  # or set after a first start, before a second one
        block = TextBlock(text="x")
    assert (block.id, block.created_at) == ("mine", "then")
