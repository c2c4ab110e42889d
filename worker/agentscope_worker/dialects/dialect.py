"""The worker's side of a dialect: how a request becomes a Msg, and a Msg becomes bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from agentscope.message import Msg


class BadMessage(ValueError):
    """A message that no App can be given; the text says where, what and what is allowed."""


class Dialect:
    """One dialect.

    `number`: in the Open frame. `read`: the body of a request to its Msg and its metadata; raises BadMessage.
    `event`: run id, number of the event and a Msg to the bytes of one event; raises TypeError for another
    type. `size`: bytes that a Msg takes in an answer that is not streamed. `join`: Msgs and the metadata of
    the end of the turn to the JSON array of such an answer.
    """

    __slots__ = ("event", "join", "number", "read", "size")

    def __init__(
        self,
        number: int,
        read: Callable[[bytes], tuple[Msg, dict[str, Any]]],
        event: Callable[[bytes, int, Msg], bytes],
        size: Callable[[Msg], int],
        join: Callable[[Iterable[Msg], Mapping[str, Any]], bytes],
    ) -> None:
        self.number: Final = number
        self.read: Final = read
        self.event: Final = event
        self.size: Final = size
        self.join: Final = join
