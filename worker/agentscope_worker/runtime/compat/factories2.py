"""Ids and times of what AgentScope 2.x makes: the same as its own, and quicker.

Each block asks for both, and each message of the newer releases, so that they are a large part of what a
message costs. It must be imported through `agentscope2` only.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import Final

import agentscope

from agentscope_protocol.wire.random_ids import new_id

_HOME: Final = "agentscope._utils._common"  # where AgentScope has its factories

# The second since the epoch that was written last, and as text: one tuple, for threads, in a list, since what
# is not Final is looked up by name.
_last_second: Final[list[tuple[int, str]]] = [(-1, "")]


def set_factories() -> None:
    """Have AgentScope use ours. What an author has set stays, and what one sets later replaces them."""
    if _is_its_own("_id_factory"):
        agentscope.set_id_factory(new_id)
    if _is_its_own("_timestamp_factory"):
        agentscope.set_timestamp_factory(timestamp)


def timestamp() -> str:
    """The local time, of a clock after 1970, as `datetime.now().isoformat()` has it, in a fifth of its time,
    as many are asked for in the same second."""
    now = time.time_ns() // 1000
    second = now // 1_000_000
    last, text = _last_second[0]
    if second != last:
        text = datetime.fromtimestamp(second).isoformat()
        _last_second[0] = second, text
    digits = str(now)[-6:]  # quicker than to format a number with its zeros
    return f"{text}.{digits}" if digits != "000000" else text


def _is_its_own(factory: str) -> bool:
    """Whether AgentScope has the factory that it came with, as far as can be seen."""
    return getattr(getattr(sys.modules.get(_HOME), factory, None), "__module__", None) == _HOME
