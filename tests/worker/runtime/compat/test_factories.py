"""Ids and times of AgentScope's messages: ours are used, and are what AgentScope's own would be."""

import time
from datetime import datetime
from unittest.mock import patch

import agentscope
import pytest
from agentscope.message import TextBlock

from agentscope_protocol.wire import random_ids
from agentscope_worker.runtime.compat import majors
from tests.worker.agents import MAJOR

pytestmark = pytest.mark.skipif(MAJOR == 1, reason="1.x has no factories of ids and times")

majors.seam().adapt("bypass")


def test_an_id_comes_from_the_stock() -> None:
    random_ids.new_id()  # so that there is one
    random_ids._batch.append("a" * 32)
    assert TextBlock(text="x").id == "a" * 32


@pytest.mark.parametrize("microsecond", [0, 1, 999, 120_000, 999_999])
def test_each_time_is_written_as_python_does(microsecond: int) -> None:
    for second in (1_700_000_000, 1_700_000_000, 1_700_000_001):  # a new one, the same, the next
        with patch.object(time, "time_ns", lambda at=second: at * 10**9 + microsecond * 1000 + 999):
            written = TextBlock(text="x").created_at
        assert written == datetime.fromtimestamp(second).replace(microsecond=microsecond).isoformat()


def test_those_of_an_author_stay() -> None:
    from agentscope_worker.runtime.compat import factories2

    common = agentscope._utils._common
    with patch.multiple(common, _id_factory=lambda: "mine", _timestamp_factory=lambda: "then"):
        factories2.set_factories()  # they were there before
        majors.seam().adapt("bypass")  # or came after a first start, and this is the second
        block = TextBlock(text="x")
    assert (block.id, block.created_at) == ("mine", "then")
