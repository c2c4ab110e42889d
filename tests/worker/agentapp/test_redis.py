"""Interrupts on a real Redis: two apps that share it, as two workers or hosts do."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from agentscope_runtime.engine import AgentApp
from agentscope_runtime.engine.deployers.utils.service_utils.interrupt import (
    RedisInterruptBackend,
    TaskState,
)

from agentscope_worker.agentapp import redis_interrupts
from tests.harness.redis_server import RedisServer
from tests.worker.agentapp.clients import Stream, eventually, running
from tests.worker.agentapp.scenarios import request
from tests.worker.agentapp.test_running import Handlers, app_of


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    return redis_server.url


async def listening(backend: RedisInterruptBackend, channel: str = "chan:u:s") -> None:
    """Wait until a run listens to its channel."""

    async def is_heard() -> bool:
        return bool((await backend.redis_client.pubsub_numsub(channel))[0][1])

    await eventually(is_heard)


async def test_a_stop_reaches_the_run_in_another_process(url: str) -> None:
    handlers = Handlers()
    one = app_of(handlers.waits, interrupt_redis_url=url)
    other = AgentApp(interrupt_redis_url=url)
    async with running(one), running(other), Stream(one) as stream:
        await stream.until("in_progress", "content")  # the handler runs, so that a stop is heard
        assert await other._interrupt_backend.get_task_state("u:s") is TaskState.RUNNING
        await other.stop_chat(user_id="u", session_id="s")
        assert [each["status"] for each in await stream.rest()] == ["canceled"]
        assert handlers.notes == ["cancelled", "cleaned up", "ended"]
        assert await other._interrupt_backend.get_task_state("u:s") is TaskState.STOPPED
        await other._interrupt_backend.delete_task_state("u:s")
        assert await other._interrupt_backend.get_task_state("u:s") is None


async def test_many_runs_end_and_their_sessions_are_free_again(url: str) -> None:
    app = app_of(Handlers().waits, interrupt_redis_url=url)
    async with running(app):

        async def run(session: str) -> str:
            async with Stream(app, {**request("x", model="short"), "session_id": session}) as stream:
                return str((await stream.rest())[-1]["status"])

        states = await asyncio.gather(*(run(f"s{number}") for number in range(12)))
        assert states == ["completed"] * 12
        assert await run("s0") == "completed"
        await app._interrupt_backend.redis_client.flushdb()


async def test_a_session_that_runs_elsewhere_is_refused_and_a_lost_one_is_free(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_of(Handlers().waits, interrupt_redis_url=url)
    async with running(app):
        backend = app._interrupt_backend
        await backend.set_task_state("u:s", TaskState.RUNNING, ttl=60)
        async with Stream(app) as stream:
            assert (await stream.rest()) == [{"error": "Task u:s is already in RUNNING state."}]
        await backend.redis_client.delete("state:u:s")  # as its lease does after a crash
        async with Stream(app) as stream:
            await stream.until("in_progress", "content")
            assert 0 < await backend.redis_client.ttl("state:u:s") <= 60
        await backend.redis_client.flushdb()


async def test_signals_come_again_after_a_lost_connection(
    own_redis_server: Callable[..., RedisServer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(redis_interrupts, "RETRY_AFTER", 0.01)
    server = own_redis_server()
    app = app_of(Handlers().waits, interrupt_redis_url=server.url)
    async with running(app), Stream(app) as stream:
        await stream.until("in_progress", "content")
        await listening(app._interrupt_backend)
        server.kill()

        async def is_logged() -> bool:
            return "lost the Redis connection" in caplog.text

        await eventually(is_logged)
        server.start()
        await listening(app._interrupt_backend)
        await app.stop_chat(user_id="u", session_id="s")
        assert (await stream.rest())[-1]["status"] == "canceled"


def test_without_the_client_library_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    import sys

    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ImportError, match=r"agentscope-supervisor\[redis\]"):
        AgentApp(interrupt_redis_url="redis://localhost")
