"""Bodies that are large, without end, or larger than they look (F63, F72): refused, or taken at their price.

The supervisor's memory stays within what the limits say, and other connections are answered meanwhile.
"""

import asyncio
import itertools
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import psutil
import pytest

from tests.harness.client import JSON, Connection, call, new_session, request, turn_body
from tests.harness.instance import Instance

MB: Final = 1024 * 1024
LIMIT: Final = 2  # MB, max_body_mb
SLACK: Final = 24 * MB  # of the allocator, and for what JSON becomes when it is read
PROBED_WITHIN: Final = 2.0  # seconds; a busy machine, and every probe is a new connection


@pytest.fixture(scope="module")
def tight(start_module_instance: Callable[..., Instance]) -> Instance:
    return start_module_instance(workers=1, server={"max_body_mb": LIMIT})


@asynccontextmanager
async def probed(instance: Instance) -> AsyncIterator[None]:
    """Prints how long a probe took at most while the block ran."""
    worst, stop = 0.0, asyncio.Event()

    async def probe() -> None:
        nonlocal worst
        while not stop.is_set():
            began = time.monotonic()
            assert (await call(instance.port, "GET", "/health", within=PROBED_WITHIN)).status == 200
            worst = max(worst, time.monotonic() - began)

    probing = asyncio.create_task(probe())
    try:
        yield
    finally:
        stop.set()
        await probing
        print(f"the slowest probe took {worst * 1000:.0f} ms")


def memory(instance: Instance) -> int:
    return int(psutil.Process(instance.pid).memory_info().rss)


@pytest.mark.parametrize("size", [1, 100, MB], ids=["1 byte", "100 bytes", "1 MB"])
@pytest.mark.fault("F63")
async def test_f63_body_without_end_costs_no_more_than_the_limit(tight: Instance, size: int) -> None:
    before = memory(tight)
    chunk = b"%x\r\n%b\r\n" % (size, b"x" * size)
    many = chunk * max(1, MB // len(chunk))
    async with probed(tight), Connection(tight.port) as connection:
        await connection.send(request("POST", "/invoke", headers={**JSON, "Transfer-Encoding": "chunked"}))

        async def flood() -> None:
            for _ in range(40):
                await connection.send(many)

        flooding = asyncio.create_task(flood())
        answer = await connection.answer()
        assert (answer.status, answer.code) == (413, "PAYLOAD_TOO_LARGE")
        assert await connection.is_closed(within=10)
        flooding.cancel()
    grown = memory(tight) - before
    print(f"grew by {grown / MB:.1f} MB")
    assert grown < LIMIT * 3 * MB + SLACK


@pytest.mark.fault("F63")
async def test_f63_many_bodies_that_stop_before_their_end(tight: Instance) -> None:
    """Each holds what it has sent and no more, and gives it back when it leaves."""
    body = turn_body(new_session(), "x" * (MB + MB // 2))
    before, count = memory(tight), 20
    async with probed(tight), AsyncExitStack() as stack:
        for _ in range(count):
            connection = await stack.enter_async_context(Connection(tight.port))
            await connection.send(request("POST", "/invoke", body, JSON)[:-1])
        assert memory(tight) - before < count * LIMIT * 2 * MB + SLACK
    assert (await call(tight.port, "GET", "/health")).json["turns"]["accepted"] == 0


BOMBS: Final = {
    "depth": b"[" * (LIMIT * MB),
    "depth of objects": b'{"a":' * (LIMIT * MB // 5),
    "one key again and again": b"{" + b'"a":1,' * (LIMIT * MB // 6 - 2) + b'"a":1}',
    "an integer without end": b'{"a": ' + b"9" * (LIMIT * MB - 10) + b"}",
    "a fraction without end": b'{"a": 0.' + b"9" * (LIMIT * MB - 10) + b"}",
    "an exponent": b'{"a": 1e400}',
    "an exponent without end": b'{"a": 1e' + b"9" * (LIMIT * MB - 10) + b"}",
    "escapes": b'{"a": "' + b"\\ud83d\\ude00" * (LIMIT * MB // 12 - 2) + b'"}',
    "half escapes": b'{"a": "' + b"\\ud83d" * (LIMIT * MB // 6 - 2) + b'"}',
    "empty lists": b"[" + b"[]," * (LIMIT * MB // 3 - 2) + b"[]]",
    "bad UTF-8 at its end": b'{"a": "' + b"x" * (LIMIT * MB - 20) + b'\xff"}',
}


@pytest.mark.fault("F72")
async def test_f72_bombs_are_refused_and_hold_nobody_up(tight: Instance) -> None:
    before = memory(tight)
    for name, bomb in BOMBS.items():
        async with probed(tight):
            print(name, end=": ")
            answer = await call(tight.port, "POST", "/invoke", body=bomb, headers=JSON)
        assert (answer.status, answer.code) == (400, "INVALID_REQUEST"), name
        assert len(answer.body) < 2000, "what was sent is not sent back"
    grown = memory(tight) - before
    print(f"grew by {grown / MB:.1f} MB")
    assert grown < 100 * MB


CLIENTS: Final = 8
FULL: Final = 15 * MB  # bytes of a body; the limit of the shared instance is 16
HEAVY: Final = {
    "objects without content": b'{"message":[' + b"{}," * (FULL // 3) + b"{}]}",
    "members": b'{"message":{' + b'"%07d":1,' * (FULL // 12) % (*range(FULL // 12),) + b'"":1}}',
    "levels": b'{"a":' * (FULL // 5),
    "escapes": b'{"stream":false,"message":{"role":"?","content":"' + b"\\n" * (FULL // 2) + b'"}}',
    "as many values as may be": b'{"stream":false,"message":{"role":"?","content":["%b"%b]}}'
    % (b"x" * FULL, b",{}" * 99_990),
}
LIVE_WITHIN: Final = 0.05  # seconds, 99 of 100
STALLED: Final = 0.4  # seconds; to parse one of the bodies takes one and more
HELD: Final = 3 * CLIENTS * FULL  # bytes: each body as it is received, as it is, and as a frame


def post(port: int, body: bytes, path: str = "/invoke") -> bytes:
    """The response to a turn that is sent from this thread."""
    own = {"X-Session-Id": new_session(), "Idempotency-Key": new_session("key")}
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(request("POST", path, body, {**JSON, **own, "Connection": "close"}))
        return b"".join(iter(lambda: sock.recv(65536), b""))


_EMPTY: Final = b"[" + b"{}," * (FULL // 3) + b"{}]"
_LONG: Final = b'"' + b"\\n" * (FULL // 2) + b'"'
_USER: Final = b'[{"id":"1","messageId":"1","role":"user","%b":%b}]'
HEAVY_ELSEWHERE: Final = {
    "/v1/chat/completions": (b'{"messages":%b}' % _EMPTY, b'{"messages":%b}' % (_USER % (b"content", _LONG))),
    "/v1/responses": (b'{"input":%b}' % _EMPTY, b'{"input":%b}' % _LONG),
    "/process": (b'{"input":%b}' % _EMPTY, b'{"input":%b}' % (_USER % (b"content", _LONG))),
    "/ag-ui": (b'{"messages":%b}' % _EMPTY, b'{"messages":%b}' % (_USER % (b"content", _LONG))),
    "/api/chat": (b'{"messages":%b}' % _EMPTY, b'{"messages":%b}' % (_USER % (b"parts", _LONG))),
    "/a2a": (
        b'{"jsonrpc":"2.0","id":1,"method":"message/send","params":{"message":%b}}' % _EMPTY,
        b'{"jsonrpc":"2.0","id":1,"method":"message/send","params":{"message":%b}}' % _LONG,
        b'{"jsonrpc":"2.0","id":%b,"method":"message/send"}' % _LONG,
    ),
}


@pytest.mark.timed
@pytest.mark.fault("F72")
async def test_f72_bodies_that_are_slow_to_parse_hold_nobody_up(shared: Instance) -> None:
    """Eight clients send the worst of what the limits allow; the App is called for none of it."""
    bodies = [body for _, body in zip(range(CLIENTS), itertools.cycle(HEAVY.values()), strict=False)]
    responses = await sent_while_probed(shared, bodies, "/invoke")
    for name, each in zip(itertools.cycle(HEAVY), responses, strict=False):
        assert b" 400 " in each[:20], name
        assert b"INVALID_REQUEST" in each


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.fault("F72")
@pytest.mark.parametrize("path", HEAVY_ELSEWHERE)
async def test_f72_bodies_in_other_protocols_hold_nobody_up(shared: Instance, path: str) -> None:
    """The App answers a long text; it is called for nothing else."""
    bodies = [body for _, body in zip(range(CLIENTS), itertools.cycle(HEAVY_ELSEWHERE[path]), strict=False)]
    for each in await sent_while_probed(shared, bodies, path):
        assert each.startswith(b"HTTP/1.1 ")


async def sent_while_probed(shared: Instance, bodies: Sequence[bytes], path: str) -> list[bytes]:
    """Send all bodies at once, and return the responses. Probes of /livez are answered quickly meanwhile."""
    before, most, took = memory(shared), 0, []
    sending = [asyncio.create_task(asyncio.to_thread(post, shared.port, body, path)) for body in bodies]
    while not all(each.done() for each in sending):
        began = time.monotonic()
        assert (await call(shared.port, "GET", "/livez")).status == 200
        took.append(time.monotonic() - began)
        most = max(most, memory(shared) - before)
    took.sort()
    most_of_them, slowest = took[len(took) * 99 // 100], took[-1]
    print(f"{len(took)} probes, 99 % in {most_of_them * 1000:.0f} ms, all in {slowest * 1000:.0f} ms")
    print(f"grew by {most / MB:.0f} MB")
    assert most_of_them < LIVE_WITHIN
    assert slowest < STALLED
    assert most < HELD
    return [await each for each in sending]
