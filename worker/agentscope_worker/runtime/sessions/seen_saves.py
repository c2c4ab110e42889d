"""The saves that this process has seen, which decide what it may replace. Pure.

An App may keep a session in memory between its turns. If another process has saved the session meanwhile, a
save from that memory would undo what the other process has stored. For each session, the process therefore
remembers the number of the last save that a turn of the session has loaded or stored here. A stored state
with a larger number, from another process, is newer than that memory.

Code outside of the session's turns, such as `on_shutdown`, is held to the same number, but may also replace a
state that it has itself loaded. A session of which no turn has loaded or saved its state here is not checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final

from agentscope_worker.runtime.sessions.stored_form import Stamp

MAX_SESSIONS = 100_000
"""Sessions whose number is remembered, the same number that the supervisor tracks; those whose last use is
the longest ago are dropped."""

_MAX_LOADED: Final = 32  # states that code outside of their turns has loaded last, for each task

_ANY: Final = math.inf  # the limit of a session that is not checked

_loaded: Final[ContextVar[Mapping[str, int]]] = ContextVar("loaded", default=MappingProxyType({}))


class SeenSaves:
    """The numbers, by the name of a state.

    `by`: the mark of this process in the stamps of its saves. A state with this mark is never newer, so that
    a save whose result was lost does not block the next one. `by_other`: the mark of saves that code outside
    of the session's turns has put on a state that those turns have not seen.
    """

    def __init__(self, by: str, by_other: str) -> None:
        self._by: Final = by
        self._by_other: Final = by_other
        self._numbers: Final[dict[str, int]] = {}  # in order of last use

    def of_turn(self, name: str, number: int) -> None:
        """A turn of the session has loaded or saved its state, or found none (0)."""
        self._numbers.pop(name, None)
        self._numbers[name] = number
        if len(self._numbers) > MAX_SESSIONS:
            del self._numbers[next(iter(self._numbers))]

    def loaded_outside(self, name: str, number: int) -> None:
        """The current task, outside of the session's turns, has loaded the state, and may replace it."""
        if name in self._numbers:
            others = [item for item in _loaded.get().items() if item[0] != name]
            _loaded.set(dict([*others, (name, number)][-_MAX_LOADED:]))

    def replaced_outside(self, name: str, number: int) -> None:
        """The current task, outside of the session's turns, has saved or deleted the state (0)."""
        if self.mark_outside(name) == self._by_other:
            self.loaded_outside(name, number)
        elif name in self._numbers:
            self.of_turn(name, number)

    def mark_outside(self, name: str) -> str:
        """The mark for a save of the current task, outside of the session's turns."""
        is_ahead = _loaded.get().get(name, 0) > self._numbers.get(name, 0)
        return self._by_other if is_ahead else self._by

    def may_replace(self, name: str, *, outside: bool = False) -> Callable[[Stamp], bool]:
        """Whether a save may replace the state with a given stamp. `outside`: a save of the current task,
        outside of the session's turns."""
        limit = self._numbers.get(name, _ANY)
        if outside:
            limit = max(limit, _loaded.get().get(name, 0))
        return lambda stored: stored.number <= limit or stored.by == self._by
