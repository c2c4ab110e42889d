"""A project with a FastAPI app has what a project with an App has: runtime, log fields, reload, traces."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import httpx
import pytest
import websockets

from tests.fakes.model_server import ModelServer
from tests.fakes.otlp_sink import OtlpSink
from tests.harness.client import JSON, call
from tests.harness.instance import COMMAND, Instance, run
from tests.harness.projects import configure, written
from tests.harness.waiting import eventually, eventually_so

ROOT: Final = Path(__file__).resolve().parents[2]

APP: Final = """
    import logging
    import time
    from contextlib import asynccontextmanager

    import uvicorn
    from agentscope.runtime import runtime
    from fastapi import FastAPI, Request

    from words import WORD

    log = logging.getLogger("shop")


    class Counter:
        value = 0

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state):
            self.value = state["value"]


    @asynccontextmanager
    async def lifespan(app):
        yield
        log.warning("closes %s", WORD)


    app = FastAPI(lifespan=lifespan)


    @app.post("/count")
    async def count(request: Request):
        counter = Counter()
        await runtime.session.load_session_state("s", counter=counter)
        counter.value += 1
        await runtime.session.save_session_state("s", counter=counter)
        log.warning("counts")
        return {"count": counter.value, "slot": request.state.worker_slot, "is_app": runtime.app is app}


    @app.get("/block")
    async def block():
        time.sleep(0.5)


    @app.get("/word")
    def word():
        return WORD


    uvicorn.run(app, port=8000)
"""


@contextlib.asynccontextmanager
async def client_of(instance: Instance) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{instance.port}", timeout=60) as client:
        yield client


async def test_an_asgi_app_has_what_an_app_has(tmp_path: Path, new_instance: Callable[..., Instance]) -> None:
    project = written(tmp_path / "project", APP)
    words = project / "words.py"
    words.write_text("WORD = 'v0'\n")
    async with OtlpSink() as sink:
        configure(project, tracing={"endpoint": sink.endpoint}, supervisor={"soak": 0})
        instance = new_instance(project, workers=1, arguments=["--reload"])
        await asyncio.to_thread(instance.start)
        await eventually(lambda: "watching the project" in instance.log, 20, "the watch has started")
        async with client_of(instance) as client:
            for number in (1, 2):
                answer = await client.post("/count", headers={"X-Request-Id": f"count-{number}"})
                assert answer.json() == {"count": number, "slot": 0, "is_app": True}
                assert answer.headers["x-agentscope-worker"] == "0.1"
                assert answer.headers["x-request-id"] == f"count-{number}"
            logged = " logger=shop request=count-2"
            await eventually(lambda: logged in instance.log, 20, "the log line names its request")
            await client.get("/block", headers={"X-Request-Id": "blocking"})
            blocked = f"ms: {project}/app.py, line "
            await eventually(lambda: blocked in instance.log, 20, "the block is found")
            (line,) = [line for line in instance.log.splitlines() if blocked in line]
            assert "in block" in line
            assert "request=blocking" in line
            spans = {span.span_id: span for span in await sink.until("POST hosted", "exchange")}
            exchange = next(span for span in spans.values() if span.name == "exchange")
            assert spans[exchange.parent_id].name == "POST hosted"
            words.write_text("WORD = 'v1'\n")

            async def is_new() -> bool:
                return (await client.get("/word")).json() == "v1"

            await eventually_so(is_new, 60, "the app is reloaded")
        await eventually(lambda: "closes v0" in instance.log, 20, "the lifespan of the old worker ends")
        assert await asyncio.to_thread(instance.stop) == 0
    assert "closes v1" in instance.log
    assert "Traceback" not in instance.log


def test_check_finds_the_app(tmp_path: Path) -> None:
    project = written(tmp_path / "project", APP)
    (project / "words.py").write_text("WORD = 'v0'\n")
    checked = run(COMMAND, "check", project)
    assert (checked.returncode, checked.stdout) == (0, "project: OK\n"), checked.stderr
    (project / "agentapp.yaml").write_text("app: app:router\n")
    checked = run(COMMAND, "check", project)
    assert checked.returncode == 78
    assert "app: app:router in agentapp.yaml: app has no name router" in checked.stderr


@pytest.fixture
def example(tmp_path: Path, new_instance: Callable[..., Instance]) -> Callable[[str], Instance]:
    """Starts a copy of examples/fastapi, with the URL of its model."""
    project = shutil.copytree(ROOT / "examples" / "fastapi", tmp_path / "fastapi")

    def start(url: str) -> Instance:
        variables = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": url}
        return new_instance(project, workers=1, variables=variables).start()

    return start


@pytest.mark.agentscope
async def test_the_example_answers(example: Callable[[str], Instance]) -> None:
    async with ModelServer() as server:
        instance = await asyncio.to_thread(example, server.base_url)
        async with client_of(instance) as client:
            assert (await client.get("/")).json() == {"greeting": "Hello", "worker": 0}
            assert (await client.get("/chats/ann")).status_code == 404
            answer = await client.post("/chats/ann", json={"text": "one two"})
            assert answer.text == "Echo: one two"
            lines = (await client.get("/chats/ann")).json()
            assert [line["text"] for line in lines] == ["one two", "Echo: one two"]
            assert (await client.get("/openapi.json")).json()["info"]["title"] == "Chats"
        async with websockets.connect(f"ws://127.0.0.1:{instance.port}/live") as socket:
            await socket.send("one two")
            parts = [await socket.recv()]
            while parts[-1]:
                parts.append(await socket.recv())
            assert "".join(map(str, parts)) == "Echo: one two"


EARLY: Final = """
    import json

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = json.dumps({"mine": scope["path"]}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
"""


async def test_a_request_before_the_first_worker_is_ready_waits_for_the_app(tmp_path: Path) -> None:
    """The supervisor has routes at the same paths, for an App, and does not know yet what is hosted."""
    project = written(tmp_path / "project", EARLY)
    with Instance(project, tmp_path / "run", workers=1) as instance:
        instance.launch()
        instance.wait_listening()
        answer = await call(instance.port, "POST", "/process", body=b"{}", headers=JSON)
        assert (answer.status, answer.json) == (200, {"mine": "/process"})
