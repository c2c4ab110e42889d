"""More turns than are allowed: of the instance, of a worker, of a caller, of a session.

They are refused at once, with a status and a code that say which, and when to come back; what runs is not
touched, and its end makes room.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import pytest

from tests.harness.client import Response, Stream, call, invoke, new_session, session_in
from tests.harness.instance import Instance

MAX_TURNS: Final = 5
MAX_INFLIGHT: Final = 3
MAX_QUEUE: Final = 1
MOST: Final = 2  # turns of one caller

HELD: Final = [{"say": "x"}, {"sleep": 60}]


@pytest.fixture(scope="module")
def bounded(start_module_instance: Callable[..., Instance]) -> Instance:
    return start_module_instance(
        workers=2,
        server={"max_turns": MAX_TURNS, "max_turns_per_principal": MOST, "principal": "metadata.user"},
        supervisor={"max_inflight": MAX_INFLIGHT},
        sessions={"max_queue": MAX_QUEUE},
    )


@pytest.fixture(scope="module")
def by_token(start_module_instance: Callable[..., Instance]) -> Instance:
    server = {"max_turns_per_principal": MOST, "auth_token": "ann"}
    return start_module_instance(workers=1, server=server)


def caller(name: object) -> dict[str, Any]:
    return {"metadata": {"user": name}}


@asynccontextmanager
async def held(port: int, *turns: tuple[str, dict[str, Any]]) -> AsyncIterator[None]:
    """Turns that run, or wait, until the block ends; each a session and what else its request has."""
    async with AsyncExitStack() as stack:
        for session, more in turns:
            stream = await stack.enter_async_context(Stream(port, session, HELD, **more))
            await stream.begun()
        yield


def assert_refused(answer: Response, status: int, code: str) -> None:
    assert (answer.status, answer.code) == (status, code)
    assert answer.json["error"]["retryable"] is True
    assert answer.headers["retry-after"].isdecimal()
    assert 1 <= int(answer.headers["retry-after"]) < 120


async def assert_served(port: int, session: str, **more: Any) -> None:
    assert (await invoke(port, session, "hello", **more)).status == 200


async def all_ended(port: int) -> None:
    """Wait until the turns that were left have been given back."""
    async with asyncio.timeout(10):
        while (await call(port, "GET", "/health")).json["turns"]["open"]:
            pass


async def test_max_inflight(bounded: Instance) -> None:
    """Of one worker: the others serve on."""
    port = bounded.port
    sessions = [await session_in(port, 0) for _ in range(MAX_INFLIGHT + 1)]
    elsewhere = await session_in(port, 1)
    turns = [(session, caller(session)) for session in sessions[:-1]]
    async with held(port, *turns):
        refused = await invoke(port, sessions[-1], "one more", **caller("more"))
        assert_refused(refused, 503, "OVERLOADED")
        assert str(MAX_INFLIGHT) in refused.json["error"]["message"]
        await assert_served(port, elsewhere)
    await all_ended(port)
    await assert_served(port, sessions[-1])


async def test_max_turns(bounded: Instance) -> None:
    """Of the instance: no worker, no caller makes a difference."""
    port = bounded.port
    sessions = [await session_in(port, number % 2) for number in range(MAX_TURNS)]
    last = await session_in(port, 1)
    async with held(port, *((session, caller(session)) for session in sessions)):
        refused = await invoke(port, last, "one more", **caller("more"))
        assert_refused(refused, 503, "OVERLOADED")
        assert str(MAX_TURNS) in refused.json["error"]["message"]
        async with Stream(port, last, "streamed", **caller("more")) as stream:
            assert_refused(await stream.refused(), 503, "OVERLOADED")
        assert_refused(await call(port, "GET", "/readiness"), 503, "OVERLOADED")
        assert (await call(port, "GET", "/health")).status == 200, "probes are no turns"
    await all_ended(port)
    await assert_served(port, last)


async def test_max_turns_per_principal_by_token(by_token: Instance) -> None:
    port, token = by_token.port, {"Authorization": "Bearer ann"}
    turns = [(new_session(), {"headers": token, **caller(n)}) for n in range(MOST)]
    async with held(port, *turns):
        refused = await invoke(port, new_session(), "one more", headers=token, **caller("more"))
        assert_refused(refused, 429, "TOO_MANY_REQUESTS")
        assert "ann" not in refused.body.decode(), "a token is a secret"
    await all_ended(port)
    await assert_served(port, new_session(), headers=token)


async def test_max_turns_per_principal_by_metadata(bounded: Instance) -> None:
    port = bounded.port
    turns = [
        (new_session(), {**caller("ann"), "headers": {"Authorization": f"Bearer {n}"}}) for n in range(MOST)
    ]
    async with held(port, *turns):
        refused = await invoke(port, new_session(), "one more", metadata={"user": "ann"})
        assert_refused(refused, 429, "TOO_MANY_REQUESTS")
        await assert_served(port, new_session(), metadata={"user": "bob"})
        refused = await invoke(port, new_session(), "who?", metadata={"user": {"name": ["ann"]}})
        assert (refused.status, refused.code) == (400, "INVALID_REQUEST")
    await all_ended(port)
    await assert_served(port, new_session(), metadata={"user": "ann"})


async def test_callers_without_the_key_are_one_principal(bounded: Instance) -> None:
    port = bounded.port
    async with held(port, *((new_session(), {"metadata": {"other": n}}) for n in range(MOST))):
        assert_refused(await invoke(port, new_session(), "one more"), 429, "TOO_MANY_REQUESTS")
        await assert_served(port, new_session(), metadata={"user": "ann"})
    await all_ended(port)


@pytest.mark.timed
async def test_max_queue(bounded: Instance) -> None:
    """Of a session: as many wait as are allowed, and the next one hears it at once."""
    port, session = bounded.port, new_session()
    turns = [(session, caller(number)) for number in range(1 + MAX_QUEUE)]
    async with held(port, *turns):
        refused = await invoke(port, session, "one more", **caller("more"))
        assert_refused(refused, 429, "TOO_MANY_REQUESTS")
        assert refused.seconds < 5
        await assert_served(port, new_session(), **caller("more"))
    await all_ended(port)
    await assert_served(port, session)
