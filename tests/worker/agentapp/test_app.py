"""The API of AgentApp beside its streams: routes, endpoints, tasks, hooks, and what handlers are given."""

import asyncio
import datetime
import json
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from agentscope_runtime.engine import AgentApp, Runner
from agentscope_runtime.engine.deployers.adapter.protocol_adapter import ProtocolAdapter
from agentscope_runtime.engine.deployers.utils.deployment_modes import DeploymentMode
from agentscope_runtime.engine.schemas.agent_schemas import AgentRequest, Message, TextContent
from agentscope_runtime.engine.schemas.exception import AppBaseException
from fastapi import Depends, Request

from agentscope_worker.agentapp import tasks
from tests.worker.agentapp.clients import Stream, eventually, running
from tests.worker.agentapp.scenarios import SCENARIOS, _growing, _text, events, request


async def polled(client: Any, path: str, task_id: str, status: str = "") -> dict[str, Any]:
    """The state of a task when it has this status, or has ended."""
    expected = [status] if status else ["finished", "failed"]
    state: dict[str, Any] = {}

    async def is_there() -> bool:
        state.update((await client.get(f"{path}/{task_id}")).json())
        return state["status"] in expected

    await eventually(is_there)
    return state


async def test_own_routes_exist_without_a_handler() -> None:
    app = AgentApp(app_name="Friday", app_description="A helpful assistant")
    async with running(app) as client:
        health = (await client.get("/health")).json()
        assert (health["status"], health["runner"], health["mode"]) == ("healthy", "ready", "daemon_thread")
        assert health["timestamp"] > 0
        assert (await client.get("/readiness")).json() == {"status": "ready"}
        assert (await client.get("/liveness")).json() == {"status": "alive"}
        welcome = (await client.get("/")).json()
        assert welcome["service"] == "AgentScope Runtime"
        assert welcome["endpoints"] == {"process": "/process", "health": "/health"}
        assert (await client.post("/process", json=request("x"))).status_code == 404
        assert app.title == app.app_name == "Friday"


async def test_all_keywords_are_taken_and_kept() -> None:
    values = {
        "endpoint_path": "/chat",
        "response_type": "sse",
        "stream": True,
        "request_model": AgentRequest,
        "broker_url": None,
        "backend_url": None,
        "enable_embedded_worker": False,
        "enable_stream_task": True,
        "stream_task_queue": "q",
        "stream_task_timeout": 5.0,
    }
    app = AgentApp(**values, mode=DeploymentMode.STANDALONE, version="7", docs_url=None)
    assert {name: getattr(app, name) for name in values} == values
    assert app.version == "7"
    app.query()(SCENARIOS["text"].handler)
    async with running(app) as client:
        assert (await client.get("/docs")).status_code == 404
        assert (await client.get("/")).json()["endpoints"]["task"] == "/chat/task"
        assert (await client.post("/chat", json=request("x"))).status_code == 200


async def test_a_query_handler_gets_only_what_it_takes() -> None:
    seen: list[Any] = []

    def caller(request: Request) -> str:
        return request.headers["x-caller"]

    app = AgentApp()

    @app.query(framework="langgraph")
    async def query(self: Any, msgs: list[Any], caller: str = Depends(caller)) -> AsyncIterator[Any]:
        seen.extend([self, [each.content for each in msgs], caller])
        return
        yield

    async with running(app) as client:
        headers = {"x-caller": "me"}
        answer = await client.post("/process", json=request("Hello"), headers=headers)
    assert events(answer.text)[-1]["status"] == "completed"
    assert seen == [app._runner, ["Hello"], "me"]
    assert app._runner.framework_type == "langgraph"


async def test_a_later_query_handler_replaces_an_earlier_one() -> None:
    app = AgentApp()
    app.query()(SCENARIOS["text"].handler)
    app.query()(SCENARIOS["several_texts"].handler)
    async with running(app) as client:
        answer = await client.post("/process", json=request("x"))
    assert [each["content"][0]["text"] for each in events(answer.text)[-1]["output"]] == ["one", "two"]


async def test_handlers_that_are_not_async_do_not_block_the_loop() -> None:
    app = AgentApp()
    threads: list[int] = []

    @app.query()
    def query(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> Iterator[Any]:
        threads.append(threading.get_ident())
        yield from _growing([_text("from a thread")])

    async with running(app) as client:
        answer = await client.post("/process", json=request("x"))
    assert events(answer.text)[-1]["output"][0]["content"][0]["text"] == "from a thread"
    assert threads != [threading.get_ident()]


async def test_a_handler_may_yield_events_of_the_protocol() -> None:
    app = AgentApp()

    @app.query(framework="autogen")
    async def query(self: Any, request: Any) -> AsyncIterator[Any]:
        message = Message(role="assistant")
        yield message.in_progress()
        yield message.add_delta_content(TextContent(delta=True, text="Hel"))
        yield message.add_delta_content(TextContent(delta=True, index=0, text="lo"))
        yield message.content_completed(0)
        yield message.completed()

    async with running(app) as client:
        answer = events((await client.post("/process", json=request("x"))).text)
    assert [each["sequence_number"] for each in answer] == list(range(8))
    assert answer[-1]["output"][0]["content"][0]["text"] == "Hello"


async def test_an_exception_with_a_code_reaches_the_client_with_it() -> None:
    app = AgentApp()

    @app.query()
    async def query(self: Any, msgs: Any) -> AsyncIterator[Any]:
        raise AppBaseException(402, "QUOTA", "no more tokens")
        yield

    async with running(app) as client:
        answer = events((await client.post("/process", json=request("x"))).text)
    assert answer[-1]["error"] == {"code": "QUOTA", "message": "no more tokens"}
    assert answer[-1]["status"] == "failed"


async def test_what_is_no_message_of_the_framework_fails_with_what_is_expected() -> None:
    app = AgentApp()

    @app.query(framework="agno")
    async def query(self: Any, msgs: Any) -> Any:
        return 7

    async with running(app) as client:
        answer = events((await client.post("/process", json=request("x"))).text)
    assert "framework 'agno' yielded a int; expected events of agent.arun" in answer[-1]["error"]["message"]


async def test_an_invalid_request_is_one_error_event() -> None:
    app = AgentApp()
    app.query()(SCENARIOS["text"].handler)
    async with running(app) as client:
        (answer,) = events((await client.post("/process", json={"session_id": "s"})).text)
        assert "input" in answer["error"]
        assert (await client.post("/process", content="{")).status_code == 422


def test_an_unknown_framework_is_refused() -> None:
    with pytest.raises(ValueError, match="agentscope, autogen, agno, langgraph, not 'crewai'"):
        AgentApp().query(framework="crewai")


async def test_hooks_run_around_the_lifespan_of_the_project() -> None:
    notes: list[str] = []

    def note(text: str) -> Any:
        async def hook(app: Any, **kwargs: Any) -> None:
            assert isinstance(app, AgentApp)
            notes.append(text)

        return hook

    class Adapter(ProtocolAdapter):
        def add_endpoint(self, app: Any, func: Any, **kwargs: Any) -> None:
            notes.append("adapter")
            app.add_api_route("/adapted", func, methods=["GET"], response_model=None)

    import contextlib

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
        notes.append("begin")
        yield {"shared": 1}
        notes.append("end")

    app = AgentApp(
        lifespan=lifespan,
        before_start=note("before_start"),
        after_finish=lambda app: notes.append("after_finish"),
        protocol_adapters=[Adapter()],
    )

    @app.init
    async def init(self: Any) -> None:
        assert isinstance(self, Runner)
        notes.append("init")

    @app.shutdown
    def shutdown(self: Any) -> None:
        notes.append("shutdown")

    async with running(app):
        assert notes == ["init", "before_start", "adapter", "begin"]
    assert notes[4:] == ["end", "after_finish", "shutdown"]


async def test_a_runner_of_the_project_answers() -> None:
    class Own(Runner):
        framework_type = "text"

        async def query_handler(self, msgs: Any, request: Any) -> AsyncIterator[str]:
            for each in ("Hello ", msgs[0].get_text_content()):
                yield each

    app = AgentApp(runner=Own())
    async with running(app) as client:
        answer = events((await client.post("/process", json=request("World"))).text)
        assert answer[-1]["output"][0]["content"][0]["text"] == "Hello World"
        whole = await app._runner.query(request("World"))
        assert whole.output[0].get_text_content() == "Hello World"
    with pytest.raises(RuntimeError, match="has not been started"):
        app._runner.stream_query(request("x"))
    with pytest.raises(RuntimeError, match="framework_type is None"):
        Runner().stream_query(request("x"))


@dataclass
class Point:
    x: int


class Opaque:
    def to_dict(self) -> dict[str, Any]:
        return {"at": Point(1)}


async def test_endpoints_take_any_function_and_parameter() -> None:
    app = AgentApp()

    @app.endpoint("/plain", methods=["GET", "POST"])
    def plain(name: str = "nobody") -> Any:
        return {"name": name, "on": datetime.date(2026, 1, 2), "main": threading.current_thread() is main}

    @app.endpoint("/body")
    async def body(request: AgentRequest) -> Any:
        return {"session": request.session_id}

    @app.endpoint("/raw")
    async def raw(request: Request) -> Any:
        return await request.json()

    @app.endpoint("/async_stream")
    async def async_stream(count: int = 2) -> AsyncIterator[Any]:
        for number in range(count):
            yield {"number": number, "point": Point(number), "opaque": Opaque(), "set": {1}}
        raise ValueError("no more")

    @app.endpoint("/sync_stream")
    def sync_stream() -> Iterator[str]:
        yield "ä"

    main = threading.current_thread()
    async with running(app) as client:
        answer = (await client.get("/plain", params={"name": "me"})).json()
        assert answer == {"name": "me", "on": "2026-01-02", "main": False}
        assert (await client.post("/body", json=request("x"))).json() == {"session": "s"}
        assert (await client.post("/body", json={})).status_code == 422
        assert (await client.post("/raw", json=[1])).json() == [1]
        stream = await client.post("/async_stream", params={"count": 1})
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert events(stream.text) == [
            {"number": 0, "point": {"x": 0}, "opaque": {"at": {"x": 1}}, "set": [1]},
            {
                "error": "no more",
                "error_type": "ValueError",
                "message": "Error in streaming generator",
            },
        ]
        assert (await client.post("/sync_stream")).text == 'data: "ä"\n\n'
        cors = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
        assert (await client.options("/plain", headers=cors)).status_code == 200


async def test_tasks_are_submitted_and_polled() -> None:
    app = AgentApp()
    gate = asyncio.Event()

    @app.task("/square", queue="celery")
    def square(data: Any) -> Any:
        return {"result": data["x"] ** 2}

    @app.task("/waits")
    async def waits() -> str:
        await gate.wait()
        return "done"

    @app.task("/items")
    async def items(data: Any) -> AsyncIterator[Any]:
        yield Point(1)
        yield {"a": {2}}

    async with running(app) as client:
        submitted = (await client.post("/square", json={"x": 5})).json()
        id = submitted["task_id"]
        assert submitted == {
            "task_id": id,
            "status": "submitted",
            "queue": "celery",
            "message": f"Task {id} submitted to queue celery",
        }
        ended = await polled(client, "/square", id)
        assert (ended["status"], ended["result"]) == ("finished", {"result": 25})
        failed = (await client.post("/square", json={})).json()["task_id"]
        state = await polled(client, "/square", failed)
        assert (state["status"], state["error"], state["error_type"]) == ("failed", "'x'", "KeyError")
        assert state["result"] is None
        waiting = (await client.post("/waits", json={})).json()["task_id"]
        await polled(client, "/waits", waiting, "running")
        gate.set()
        assert (await polled(client, "/waits", waiting))["result"] == "done"
        listed = (await client.post("/items", json={})).json()["task_id"]
        assert (await polled(client, "/items", listed))["result"] == [{"x": 1}, {"a": [2]}]
        assert (await client.get("/square/unknown")).status_code == 404
        assert set(app.active_tasks) == {id, failed, waiting, listed}
        gate.clear()
        lost = (await client.post("/waits", json={})).json()["task_id"]
        await polled(client, "/waits", lost, "running")
    assert app.active_tasks[lost]["status"] == "failed"
    assert app.active_tasks[lost]["error"] == "the worker has stopped"


async def test_queries_run_as_tasks_with_a_limit_of_time() -> None:
    app = AgentApp(enable_stream_task=True, stream_task_timeout=30)

    @app.query()
    async def query(self: Any, msgs: Any, request: Any) -> AsyncIterator[Any]:
        if request.model == "slow":
            await asyncio.Event().wait()
        for each in _growing([_text("Hello")]):
            yield each

    async with running(app) as client:
        submitted = (await client.post("/process/task", json=request("x"))).json()
        assert submitted["queue"] == "stream_query"
        state = await polled(client, "/process/task", submitted["task_id"])
        assert state["result"]["output"][0]["content"][0]["text"] == "Hello"
        slow = request("x", model="slow", timeout=0.01)
        id = (await client.post("/process/task", json=slow)).json()["task_id"]
        state = await polled(client, "/process/task", id)
        assert (state["status"], state["error"]) == ("failed", "Task exceeded timeout of 0.01s")


def test_records_of_tasks_expire_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MAX_RECORDS", 2)
    records = tasks.TaskRecords()
    for id, more in {"old": {"ended_at": 1.0}, "runs": {}, "ended": {"ended_at": 4e9}, "new": {}}.items():
        records.add({"task_id": id, **more})
    assert list(records) == ["runs", "new"]


async def test_custom_endpoints_are_restored() -> None:
    async def info() -> Any:
        return {"a": 1}

    custom = [
        {"path": "/info", "handler": info, "methods": ["GET"]},
        {"path": "/job", "task_type": True, "original_func": info, "queue": "q"},
    ]
    async with running(AgentApp(custom_endpoints=custom)) as client:
        assert (await client.get("/info")).json() == {"a": 1}
        id = (await client.post("/job", json={})).json()["task_id"]
        assert (await polled(client, "/job", id))["result"] == {"a": 1}


async def test_stop_by_a_route_of_the_project() -> None:
    app = AgentApp()

    @app.query()
    async def query(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
        yield next(_growing([_text("Hel")], []))
        await asyncio.Event().wait()

    @app.post("/stop")
    async def stop(request: AgentRequest) -> Any:
        await app.stop_chat(user_id=request.user_id, session_id=request.session_id)
        return {"status": "ok"}

    async with running(app) as client, Stream(app) as stream:
        await stream.until("in_progress", "content")
        body = {"input": [], "session_id": "s", "user_id": "u"}
        assert (await client.post("/stop", json=body)).json() == {"status": "ok"}
        assert (await stream.rest())[-1]["status"] == "canceled"


def test_run_outside_of_a_project_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    import sys
    from types import SimpleNamespace

    app = AgentApp()
    with pytest.MonkeyPatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=None))
        with pytest.raises(RuntimeError, match=r"put it into app\.py"):
            app.run(web_ui=True)
        worker = SimpleNamespace(__spec__=SimpleNamespace(name="agentscope_worker.__main__"))
        patched.setitem(sys.modules, "__main__", worker)
        with pytest.raises(RuntimeError, match="a worker hosts this app already"):
            app.run()
    assert "web_ui is ignored" in caplog.text


def test_the_schema_of_the_api_has_the_routes() -> None:
    app = AgentApp()
    app.query()(SCENARIOS["text"].handler)
    schema = json.dumps(app.openapi())
    assert "/process" in schema
