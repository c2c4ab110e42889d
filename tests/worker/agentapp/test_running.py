"""Runs: how they are stopped, what their handlers see, and the order of those of one session."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agentscope_runtime.engine import AgentApp
from agentscope_runtime.engine.deployers.utils.service_utils.interrupt import (
    BaseInterruptBackend,
    LocalInterruptBackend,
    TaskState,
)

from agentscope_worker.agentapp import running
from tests.worker.agentapp.clients import Stream
from tests.worker.agentapp.clients import running as app_running
from tests.worker.agentapp.scenarios import Handler, request


def msg(text: str) -> Any:
    from tests.worker.agentapp.scenarios import _growing

    return next(_growing([{"type": "text", "text": text}], []))[0]


class Handlers:
    """A handler that yields one message and waits, with a note of what happens to it."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.running = 0
        self.waiting = asyncio.Event()

    async def waits(self, _: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
        self.running += 1
        assert self.running == 1 or request.session_id != "s"
        try:
            yield msg("one"), False
            if request.model != "short":
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.notes.append("cancelled")
            await asyncio.sleep(0)
            self.notes.append("cleaned up")
            raise
        finally:
            self.running -= 1
            self.notes.append("ended")

    async def swallows(self, _: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
        yield msg("one"), False
        try:
            self.waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.notes.append("swallowed")
        yield msg("two"), False
        self.notes.append("went on")

    async def hangs(self, _: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
        yield msg("one"), False
        for _ in range(2):
            try:
                self.waiting.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.notes.append("swallowed")


def app_of(handler: Handler, **options: Any) -> AgentApp:
    app = AgentApp(**options)
    # A bound method has no place for the runner as `self`.
    app.query(framework="agentscope")(lambda self, **kwargs: handler(self, **kwargs))
    return app


INTERRUPTED = {"code": "INTERRUPTED", "message": "the run was stopped"}


async def test_a_stop_ends_the_stream_after_the_handler_has_cleaned_up() -> None:
    handlers = Handlers()
    app = app_of(handlers.waits)
    async with app_running(app), Stream(app) as stream:
        first = await stream.next()
        await stream.until("in_progress", "content")
        await app.stop_chat(user_id="u", session_id="s")
        rest = await stream.rest()
        state = await app._interrupt_backend.get_task_state("u:s")
    assert handlers.notes == ["cancelled", "cleaned up", "ended"]
    assert [(each["status"], each["error"]) for each in rest] == [("canceled", INTERRUPTED)]
    assert rest[0]["id"] == first["id"]
    assert rest[0]["sequence_number"] == 4
    assert state is TaskState.STOPPED
    assert app._local_tasks == {}


class Stops(LocalInterruptBackend):
    """Sends a stop before a handler starts."""

    async def subscribe_listen(self, channel: str) -> Any:
        yield "STOP"


async def test_a_stop_before_the_first_event_is_the_only_event() -> None:
    handlers = Handlers()
    app = app_of(handlers.waits, interrupt_backend=Stops())
    async with app_running(app), Stream(app, request("x", id="request-1")) as stream:
        (only,) = await stream.rest()
    assert (only["status"], only["error"], only["sequence_number"]) == ("canceled", INTERRUPTED, 0)
    assert (only["id"], only["session_id"]) == ("request-1", "s")
    assert handlers.notes == []


async def test_a_stop_of_another_session_or_of_none_changes_nothing() -> None:
    handlers = Handlers()
    app = app_of(handlers.waits)
    async with app_running(app), Stream(app, request("x", model="short")) as stream:
        await stream.until("in_progress", "content")
        await app.stop_chat(user_id="u", session_id="other")
        await app.stop_chat(user_id=None, session_id="s")
        rest = await stream.rest()
    assert rest[-1]["status"] == "completed"


async def test_a_handler_that_swallows_the_cancellation_is_ended_all_the_same() -> None:
    handlers = Handlers()
    app = app_of(handlers.swallows)
    async with app_running(app), Stream(app) as stream:
        await stream.until("in_progress", "content")
        reading = asyncio.create_task(stream.rest())
        await asyncio.wait_for(handlers.waiting.wait(), 10)
        await app.stop_chat(user_id="u", session_id="s")
        rest = await reading
    assert [each["status"] for each in rest] == ["canceled"]
    assert handlers.notes == ["swallowed"]


async def test_a_handler_that_does_not_end_is_abandoned_after_the_grace(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(running, "GRACE", 0.05)
    handlers = Handlers()
    app = app_of(handlers.hangs)
    async with app_running(app), Stream(app) as stream:
        await stream.until("in_progress", "content")
        reading = asyncio.create_task(stream.rest())
        await asyncio.wait_for(handlers.waiting.wait(), 10)
        await app.stop_chat(user_id="u", session_id="s")
        rest = await reading
    assert [each["status"] for each in rest] == ["canceled"]
    assert "has not ended within 0.05 s" in caplog.text
    assert handlers.notes == ["swallowed", "swallowed"]


async def test_a_client_that_leaves_stops_its_run() -> None:
    handlers = Handlers()
    app = app_of(handlers.waits)
    async with app_running(app):
        async with Stream(app) as stream:
            await stream.until("in_progress", "content")
            (keeper,) = app._keepers
        await asyncio.wait_for(keeper, 10)
        assert handlers.notes == ["cancelled", "cleaned up", "ended"]
        assert await app._interrupt_backend.get_task_state("u:s") is TaskState.STOPPED


async def test_requests_of_one_session_run_in_order() -> None:
    handlers = Handlers()
    app = app_of(handlers.waits)
    async with app_running(app), Stream(app) as first, Stream(app, request("x", model="short")) as second:
        await first.until("in_progress", "content")
        waiting = asyncio.create_task(second.rest())
        other = {**request("x", model="short"), "session_id": "other"}
        async with Stream(app, other) as third:
            assert (await third.rest())[-1]["status"] == "completed"
        assert not waiting.done()
        await app.stop_chat(user_id="u", session_id="s")
        assert (await first.rest())[-1]["status"] == "canceled"
        assert (await waiting)[-1]["status"] == "completed"
    assert app.turns._waiting == {}


async def test_a_client_that_leaves_while_it_waits_gives_its_place_away() -> None:
    handlers = Handlers()
    app = app_of(handlers.waits)
    async with app_running(app), Stream(app) as first:
        await first.until("in_progress", "content")
        tasks = [asyncio.create_task(Stream(app, request("x", model="short")).rest()) for _ in range(2)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        await app.stop_chat(user_id="u", session_id="s")
        await first.rest()
        assert (await tasks[1])[-1]["status"] == "completed"


async def test_clients_without_ids_do_not_wait_for_each_other() -> None:
    handlers = Handlers()
    app = app_of(handlers.waits)
    body = request("Hello")
    del body["session_id"], body["user_id"]
    async with app_running(app), Stream(app, body) as first, Stream(app, body) as second:
        one, two = await first.next(), await second.next()
        await first.until("in_progress", "content")
        await second.until("in_progress", "content")
    assert one["session_id"] != two["session_id"]


async def test_the_end_of_the_app_stops_its_runs() -> None:
    handlers = Handlers()
    app = app_of(handlers.waits)
    async with app_running(app):
        stream = Stream(app)
        await stream.until("in_progress", "content")
    assert handlers.notes == ["cancelled", "cleaned up", "ended"]
    assert (await stream.rest())[-1]["status"] == "canceled"


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def test_run_and_stream_runs_any_generator_once_per_session() -> None:
    app = AgentApp()
    assert [each async for each in app.run_and_stream("u", "s", numbers, 3)] == [0, 1, 2]
    stream = app.run_and_stream("u", "s", numbers, count=3)
    assert await anext(stream) == 0
    with pytest.raises(RuntimeError, match="Task u:s is already in RUNNING state"):
        await anext(app.run_and_stream("u", "s", numbers, 1))
    await stream.aclose()


async def test_run_and_stream_raises_what_the_generator_raises() -> None:
    async def fails() -> AsyncIterator[int]:
        yield 1
        raise ValueError("no more")

    app = AgentApp()
    with pytest.raises(ValueError, match="no more"):
        async for _ in app.run_and_stream("u", "s", fails):
            pass
    assert await app._interrupt_backend.get_task_state("u:s") is TaskState.ERROR


class Broken(LocalInterruptBackend):
    """Fails where a lost connection fails."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    async def compare_and_set_state(self, *args: Any, **kwargs: Any) -> bool:
        if "compare" in self.names:
            raise ConnectionError("no backend")
        return await super().compare_and_set_state(*args, **kwargs)

    async def set_task_state(self, *args: Any, **kwargs: Any) -> None:
        if "set" in self.names:
            raise ConnectionError("no backend")
        await super().set_task_state(*args, **kwargs)

    async def subscribe_listen(self, channel: str) -> Any:
        if "listen" in self.names:
            raise ConnectionError("no backend")
        async for each in super().subscribe_listen(channel):
            yield each


async def test_a_backend_that_fails_at_the_start_is_an_error_event() -> None:
    app = app_of(Handlers().waits, interrupt_backend=Broken("compare"))
    async with app_running(app) as client:
        answer = await client.post("/process", json=request("Hello"))
    assert answer.text == 'data: {"error": "no backend"}\n\n'
    assert app.turns._waiting == {}


@pytest.mark.parametrize("name", ["set", "listen"])
async def test_a_backend_that_fails_later_cuts_no_stream(name: str, caplog: pytest.LogCaptureFixture) -> None:
    app = app_of(Handlers().waits, interrupt_backend=Broken(name))
    async with app_running(app), Stream(app, request("x", model="short")) as stream:
        assert (await stream.rest())[-1]["status"] == "completed"
    assert "ConnectionError: no backend" in caplog.text


async def test_local_signals_reach_the_other_workers_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(LocalInterruptBackend, "broadcast", staticmethod(lambda *each: sent.append(each)))
    app, other = app_of(Handlers().waits), AgentApp()
    async with app_running(app), Stream(app) as stream:
        await stream.until("in_progress", "content")
        await other.stop_chat(user_id="u", session_id="s")
        assert sent == [("chan:u:s", "STOP")]
        app._interrupt_backend.deliver(*sent[0])
        assert (await stream.rest())[-1]["status"] == "canceled"


async def test_local_states_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalInterruptBackend, "MAX_STATES", 2)
    backend = LocalInterruptBackend()
    await backend.set_task_state("runs", TaskState.RUNNING)
    for key in "abc":
        await backend.set_task_state(key, TaskState.FINISHED)
    states = {key: await backend.get_task_state(key) for key in ("runs", "a", "b", "c")}
    assert states == {"runs": TaskState.RUNNING, "a": None, "b": None, "c": TaskState.FINISHED}
    await backend.delete_task_state("c")
    assert await backend.get_task_state("c") is None


def test_a_backend_must_define_all_methods() -> None:
    with pytest.raises(TypeError, match="abstract"):
        BaseInterruptBackend()
