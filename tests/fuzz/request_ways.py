"""One request on every way into a front door, in memory and in virtual time: which turns begin.

The front door is the real one: both parsers, all checks and routes. Its turns are a stand-in that notes the
body of each turn and refuses it with POISONED. So a response with the status 422 stands for a turn.

A request that one reader ends elsewhere than another could carry a second request past the checks of the
first (request smuggling). So each way must answer as the reference does, request by request, until one of
them ends the connection: for bytes that are no request, or instead of waiting for the rest of a refused body.
"""

import asyncio
import operator
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, cast

from pydantic import SecretStr

from agentscope_protocol.config.auth_settings import AuthSettings
from agentscope_protocol.config.settings import ServerSettings
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.request import TurnRequest
from agentscope_supervisor.domain.run import Run
from agentscope_supervisor.http1.connection_table import Entry
from agentscope_supervisor.web.access.tokens import Tokens
from agentscope_supervisor.web.app import FrontDoor

TOKEN: Final = "a-token-for-the-ways"
REFUSED: Final = Failure(ErrorCode.POISONED, "noted")
MOMENT: Final = 0.06  # seconds; above BODY_FOLLOWS_WITHIN, so that the fast way passes the connection on
AGES: Final = 60.0
"""Seconds; above the time limits of heads and bodies and the delay of wrong tokens, below that of idle
connections."""
TURNS_OF_LOOP: Final = 12  # in which all callbacks of one event have run

BODY: Final = b'{"session_id":"s","message":{"content":"hello"}}'
FIELDS: Final = (
    b"Host: t\r\nContent-Type: application/json\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n"
)
USUAL: Final = b"POST /invoke HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (FIELDS, len(BODY), BODY)
PROBE: Final = b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n"

REFERENCE: Final = "aiohttp alone, byte after byte"
WAYS: Final = (
    *("one write", "pieces", "pieces, slowly", "after a probe", "after a turn", "aiohttp alone"),
    REFERENCE,
)


_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([2-5][0-9]{2}) [A-Za-z ]*\r\n")
_LAST: Final = (400, 408)  # of a request that is invalid or incomplete, with which the connection ends


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is moved by the caller."""

    passed = 0.0  # seconds

    def time(self) -> float:
        return self.passed


class Turns:
    """Notes turns and refuses them."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def submit(self, request: TurnRequest, run: Run) -> Failure:
        self.bodies.append(request.body)
        return REFUSED

    def ahead(self, turn: object) -> int:
        return 0


class Recorder:
    """Has no run, and takes every idempotency key."""

    async def claim(self, run_id: str, request: TurnRequest) -> None:
        return None

    def release(self, run_id: str, key: object) -> None:
        pass

    async def find(self, *_: object) -> None:
        return None


class Transport(asyncio.Transport):
    """The server's side of a connection in memory; `written` has its responses."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self.written = bytearray()
        self._loop: Final = loop
        self._protocol = protocol
        self._is_closing = False
        protocol.connection_made(self)

    def receive(self, data: bytes) -> None:
        """Bytes of the client arrive, unless the server has closed the connection."""
        if not self._is_closing:
            cast(asyncio.Protocol, self._protocol).data_received(data)

    def write(self, data: Any) -> None:
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        self.written += b"".join(list_of_data)

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self._is_closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass  # few bytes arrive

    def resume_reading(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Seen:
    """What bytes lead to, on one way. `answers`: the statuses, without that of a last request that is invalid
    or incomplete. `turns`: their bodies. `is_open`: whether the connection waits for the next request."""

    answers: list[int]
    turns: list[bytes]
    is_open: bool


def check(data: bytes, cut: int) -> None:
    """Raises: AssertionError: a way reads these bytes differently."""
    seen = by_way(data, cut)
    expected = seen[REFERENCE]
    for way, found in seen.items():
        if found.is_open and expected.is_open:
            is_same = found == expected
        else:
            is_same = _agree(found.answers, expected.answers) and _agree(found.turns, expected.turns)
        assert is_same, f"{way}: {found}, but {expected} for {data!r}"


def _agree(one: Sequence[object], other: Sequence[object]) -> bool:
    """Whether the longer one begins with the shorter one."""
    return all(map(operator.eq, one, other))


def by_way(data: bytes, cut: int) -> dict[str, Seen]:
    """What these bytes lead to, on each way. `cut`: where they are in two pieces.

    Raises: AssertionError: a response does not tell whether there was a turn.
    """
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(_all_ways(loop, data, min(max(cut, 1), len(data))))
    finally:
        loop.close()


async def _all_ways(loop: VirtualLoop, data: bytes, cut: int) -> dict[str, Seen]:
    async with _front_door() as (front_door, turns):
        return {way: await _seen(loop, front_door, turns, way, data, cut) for way in WAYS}


@asynccontextmanager
async def _front_door() -> AsyncIterator[tuple[FrontDoor, Turns]]:
    turns: Any = Turns()
    nothing: Any = SimpleNamespace()
    recorder: Any = Recorder()
    settings = ServerSettings(auth_token=SecretStr(TOKEN))
    exchanges: Any = SimpleNamespace(hosted="")  # an App
    yield (
        FrontDoor(
            settings,
            Tokens(settings.auth_token, AuthSettings()),
            turns,
            exchanges,
            nothing,
            nothing,
            recorder,
        ),
        turns,
    )
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _seen(
    loop: VirtualLoop, front_door: FrontDoor, turns: Turns, way: str, data: bytes, cut: int
) -> Seen:
    turns.bodies.clear()
    if way.startswith("aiohttp"):
        transport = Transport(loop, front_door._server.connect(False, _nothing, Entry()))
    else:
        transport = Transport(loop, front_door._fast.connect(False, _nothing, Entry()))
    before = {"after a probe": PROBE, "after a turn": USUAL}.get(way, b"")
    if before:
        transport.receive(before)
        await _settle(loop, MOMENT)
        assert transport.written, "the request before is answered"
        transport.written.clear()
        turns.bodies.clear()
    for piece in _pieces(way, data, cut):
        transport.receive(piece)
        if "slowly" in way:
            await _settle(loop, MOMENT)
        else:
            await asyncio.sleep(0)
    for seconds in (0.0, AGES / 2, AGES / 2):
        await _settle(loop, seconds)
    answers = [int(status) for status in _STATUS.findall(transport.written)]
    if answers and answers[-1] in _LAST and transport.is_closing():
        answers.pop()
    assert answers.count(422) == len(turns.bodies), f"{way}: {turns.bodies}, {bytes(transport.written)!r}"
    is_open = not transport.is_closing()
    transport.close()
    await _settle(loop, 0.0)
    return Seen(answers, list(turns.bodies), is_open)


def _pieces(way: str, data: bytes, cut: int) -> Sequence[bytes]:
    if way == REFERENCE:
        return [data[at : at + 1] for at in range(len(data))]
    return [data[:cut], data[cut:]] if "pieces" in way and cut < len(data) else [data]


async def _settle(loop: VirtualLoop, seconds: float) -> None:
    """Let everything run that is due within `seconds`."""
    loop.passed += seconds
    for _ in range(TURNS_OF_LOOP):
        await asyncio.sleep(0)


def _nothing() -> None:
    pass
