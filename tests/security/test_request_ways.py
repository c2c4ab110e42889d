"""One request means the same on every way: in one write, in pieces, after another request, behind a balancer.

Heads are generated: see `tests.harness.request_heads`. A request that one reader ends elsewhere than another
could carry a second request past the checks of the first (request smuggling). So a way must run a turn
exactly if it answers 200, also when the body looks like a second request, and the ways to the instance itself
must agree. A balancer may correct a request, and then forwards another one.

tests/fuzz/test_request_ways.py compares more ways without an instance, in `make check`.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import StartInstance
from tests.harness.balancers import KINDS, Balancer
from tests.harness.client import JSON, Connection, call, new_session, request, turn_body
from tests.harness.instance import Instance
from tests.harness.request_heads import head

HEADS: Final = 80
TOKEN: Final = "a-token-for-the-ways"
ANSWER_WITHIN: Final = 20.0  # seconds; a request that waits for more gets 408 after BODY_TIMEOUT
BODY_TIMEOUT: Final = 0.5
DIRECT: Final = ("one write", "pieces", "after another")


@pytest.fixture(scope="module")
def instance(start_module_instance: StartInstance) -> Iterator[Instance]:
    server = {"auth_token": TOKEN, "body_timeout": BODY_TIMEOUT, "header_timeout": BODY_TIMEOUT}
    return start_module_instance(workers=1, server=server)


@pytest.fixture
async def ports(instance: Instance, tmp_path: Path) -> AsyncIterator[dict[str, int]]:
    """The port of each way."""
    async with AsyncExitStack() as stack:
        found = dict.fromkeys(DIRECT, instance.port)
        for kind in KINDS:
            balancer = stack.enter_context(Balancer(kind, tmp_path / kind, [instance.port] * 2))
            await asyncio.to_thread(balancer.wait_until, lambda at=balancer.port: _serves(at))
            found[kind] = balancer.port
        yield found


def _serves(port: int) -> bool:
    try:
        return asyncio.run(call(port, "GET", "/livez")).status == 200
    except (OSError, EOFError):
        return False


async def status_of(port: int, way: str, data: bytes, cut: int) -> int:
    """The status of the response to the first request in `data`; 0: the connection closed without one."""
    async with Connection(port) as connection, asyncio.timeout(ANSWER_WITHIN):
        if way == "after another":
            await connection.send(request("GET", "/livez"))
            assert (await connection.answer()).status == 200
        if way == "pieces":
            await connection.send(data[:cut])
            await asyncio.sleep(0.02)  # so that the kernel does not join the pieces
            data = data[cut:]
        await connection.send(data)
        answer = b""
        while True:
            answer = re.sub(rb"\AHTTP/1\.1 100 [^\r]*\r\n(?:[^\r]+\r\n)*\r\n", b"", answer)
            if found := re.match(rb"HTTP/1\.[01] (\d{3}) ", answer):
                return int(found[1])
            piece = await connection.reader.read(65536)
            if not piece:
                return 0
            answer += piece


async def accepted(instance: Instance) -> int:
    """The number of turns that the instance has accepted."""
    number: int = instance.health()["turns"]["accepted"]
    return number


@pytest.mark.parametrize("seed", ["a", "b"])
async def test_a_request_means_the_same_on_every_way(
    instance: Instance, ports: dict[str, int], seed: str
) -> None:
    rng = random.Random(seed)
    statuses = set()
    for _ in range(HEADS // 2):
        body = turn_body(new_session(), "hello", stream=False)
        if rng.random() < 0.3:  # for a reader of chunks: an empty body, and then a turn without the token
            body = b"0\r\n\r\n" + request("POST", "/invoke", body, JSON)
        data = head(rng, body, TOKEN) + body
        cut = rng.randrange(1, len(data))
        seen = {}
        for way, port in ports.items():
            before = await accepted(instance)
            seen[way] = await status_of(port, way, data, cut)
            turns = await accepted(instance) - before
            assert turns == (seen[way] == 200), f"{way}: {seen[way]}, and {turns} turns for {data!r}"
        # Errors may differ: what follows a request in the same read may be refused before it.
        assert len({seen[way] == 200 for way in DIRECT}) == 1, f"{seen} for {data!r}"
        statuses.add(seen[DIRECT[0]])
    assert {200, 400} <= statuses, "usual and odd requests are among the generated ones"
