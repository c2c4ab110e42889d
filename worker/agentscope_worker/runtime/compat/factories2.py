"""Ids and timestamps for the objects of AgentScope 2.x: the same values as its own, generated faster.

Each block needs both, and in newer releases each message too, so that they are a large part of a message's
cost. It must be imported through `agentscope2` only.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import Final

import agentscope

from agentscope_protocol.wire.random_ids import new_id

_HOME: Final = "agentscope._utils._common"  # the module of AgentScope's own factories

# The last formatted second, since the epoch and as text. It is a tuple so that threads see a consistent pair,
# in a list because a global that is not Final is looked up by name.
_last_second: Final[list[tuple[int, str]]] = [(-1, "")]


def set_factories() -> None:
    """Install our factories in AgentScope. A factory that the author sets, earlier or later, takes
    precedence."""
    if _is_its_own("_id_factory"):
        agentscope.set_id_factory(new_id)
    if _is_its_own("_timestamp_factory"):
        agentscope.set_timestamp_factory(timestamp)


def timestamp() -> str:
    """The local time as `datetime.now().isoformat()` formats it, for clocks after 1970. Takes a fifth of the
    time if many timestamps fall into the same second."""
    now = time.time_ns() // 1000
    second = now // 1_000_000
    last, text = _last_second[0]
    if second != last:
        text = datetime.fromtimestamp(second).isoformat()
        _last_second[0] = second, text
    digits = str(now)[-6:]  # faster than formatting a number with leading zeros
    return f"{text}.{digits}" if digits != "000000" else text


def _is_its_own(factory: str) -> bool:
    """Whether AgentScope still uses its default factory, as far as can be determined."""
    return getattr(getattr(sys.modules.get(_HOME), factory, None), "__module__", None) == _HOME
