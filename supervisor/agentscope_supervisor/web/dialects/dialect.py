"""A dialect as the front door sees it: its route, how its requests are read, and its wire format. Pure."""

from collections.abc import Mapping
from typing import Final, Protocol

from agentscope_supervisor.domain.json_outline import Outline
from agentscope_supervisor.domain.request import TurnRequest
from agentscope_supervisor.domain.wire_format import WireFormat


class ReadRequest(Protocol):
    """Reads the body of a request for a turn. Raises: Refused."""

    def __call__(
        self,
        body: bytes,
        wire: WireFormat,
        *,
        header_session: str | None,
        accepts_json: bool,
        token: str,
        principal: str,
        headers: Mapping[str, str],
        idempotency_key: str | None = None,
        outline: Outline | None = None,
    ) -> TurnRequest:
        """The arguments are those of `web.parse_invoke.read`."""


class ReadOutline(Protocol):
    """Begins the outline of a large body, for `ReadRequest`."""

    def __call__(self, body: bytes, principal: str, *, digests: bool) -> Outline:
        """The arguments are those of `web.parse_invoke.outline`."""


class Dialect:
    """`path`: of its route, which takes POST. `read`: finds the session and the options in a body, or, if the
    body is large, in its `outline`."""

    __slots__ = ("outline", "path", "read", "wire")

    def __init__(self, path: str, wire: WireFormat, read: ReadRequest, outline: ReadOutline) -> None:
        self.path: Final = path
        self.wire: Final = wire
        self.read: Final = read
        self.outline: Final = outline
