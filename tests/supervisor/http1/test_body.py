"""The pace of bodies, with shorter windows than real ones: tests/faults/test_http_slow.py has the rest."""

import asyncio
from typing import Final
from unittest.mock import Mock

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader

from agentscope_protocol.config.settings import ServerSettings
from agentscope_supervisor.domain.errors import ErrorCode, Refused
from agentscope_supervisor.http1 import body as request_body
from agentscope_supervisor.http1.body import BodyReader

WINDOW: Final = 0.2  # seconds
RATE: Final = 500  # bytes per second, so that a window must bring 100


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "RATE_WINDOW", WINDOW)
    monkeypatch.setattr(request_body, "MIN_RATE", RATE)


def content_of(pieces: list[bytes], every: float) -> StreamReader:
    """A body whose pieces come one each `every` seconds."""
    loop = asyncio.get_running_loop()
    content = StreamReader(Mock(BaseProtocol), 2**16, loop=loop)
    for number, piece in enumerate(pieces):
        loop.call_later(number * every, content.feed_data, piece)
    loop.call_later(len(pieces) * every, content.feed_eof)
    return content


async def collected(pieces: list[bytes], every: float, within: float = 20) -> bytes:
    """What is made of such a body."""
    return await BodyReader(ServerSettings(body_timeout=within))._collect(content_of(pieces, every), 2**20)


async def test_a_body_that_keeps_the_pace_is_taken() -> None:
    assert len(await collected([b"x" * 200] * 10, every=WINDOW / 2)) == 2000


async def test_a_body_that_comes_in_bursts_is_taken() -> None:
    assert len(await collected([b"x" * 1000] * 3, every=WINDOW * 0.7)) == 3000


async def test_a_body_that_drips_is_given_up_before_its_time_is_over() -> None:
    began = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await collected([b"x"] * 1000, every=0.02)
    assert asyncio.get_running_loop().time() - began < 10


async def test_a_body_that_keeps_the_pace_for_too_long_is_given_up() -> None:
    with pytest.raises(TimeoutError):
        await collected([b"x" * 200] * 1000, every=0.05, within=0.5)


async def test_what_has_come_of_all_bodies_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "MAX_UNREAD", 5000)
    monkeypatch.setattr(request_body, "RATE_WINDOW", 60.0)
    reader = BodyReader(ServerSettings())
    for _ in range(2):  # and given back, however it ends
        contents = [StreamReader(Mock(BaseProtocol), 2**16) for _ in range(4)]
        bodies = [asyncio.ensure_future(reader._collect(content, 2**20)) for content in contents]
        for _ in range(3):
            for content in contents:
                content.feed_data(b"x" * 1000)
            for _ in range(5):  # all take what has come
                await asyncio.sleep(0)
        for content in contents:
            content.feed_eof()
        ended = await asyncio.gather(*bodies, return_exceptions=True)
        refused = [each.failure.code for each in ended if isinstance(each, Refused)]
        assert refused
        assert set(refused) == {ErrorCode.OVERLOADED}
        assert [len(each) for each in ended if isinstance(each, bytes)], "who is within the bound is taken"
