"""Apps and clients that do what nobody should: each costs its own turn, and no one else's."""

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.harness.client import Stream, call, invoke, new_session, texts, turn_body
from tests.harness.instance import Instance
from tests.harness.waiting import eventually, wait_until

APP = """
import subprocess, sys
from agentscope.message import Msg
from agentscope.runtime import AgentApp

class Nameless(Exception):
    def __str__(self):
        raise ValueError("no text")

class App(AgentApp):
    async def __call__(self, msg, ctx):
        match msg.get_text_content():
            case "exit":
                sys.exit(3)
            case "nameless":
                raise Nameless
            case "large":
                for _ in range(2):
                    yield Msg(name="a", content="x" * (8 * 1024 * 1024 - 400), role="assistant",
                              metadata={"chunk": False})
            case "yes":
                child = subprocess.Popen(["yes"])
                yield Msg(name="a", content=str(child.pid), role="assistant")
            case text:
                yield Msg(name="a", content=text, role="assistant")
"""


@pytest.fixture
def hostile(new_instance: Callable[..., Instance], tmp_path: Path) -> Instance:
    project = tmp_path / "hostile"
    project.mkdir()
    (project / "app.py").write_text(APP)
    (project / "agentapp.yaml").write_text("supervisor: {soak: 0}\n")
    return new_instance(project, workers=1).start()


@pytest.mark.parametrize("text", ["exit", "nameless", "large"])
async def test_a_turn_that_ends_in_an_odd_way_ends_alone(hostile: Instance, text: str) -> None:
    session, (worker,) = new_session(), hostile.ready_workers()
    response = await invoke(hostile.port, session, text, within=20)
    assert response.status in (200, 500)
    assert await texts(hostile.port, session, "goes on") == ["goes on"]
    assert hostile.ready_workers() == [worker]


@pytest.mark.fault("F38")
async def test_f38_what_a_worker_has_started_ends_with_it_and_its_output_stops_nothing(
    hostile: Instance,
) -> None:
    (worker,) = hostile.ready_workers()
    child = psutil.Process(int((await texts(hostile.port, new_session(), "yes"))[0]))
    os.kill(hostile.pid, 1)  # HUP: the worker is replaced, and exits in order
    await eventually(
        lambda: [w.generation for w in hostile.ready_workers()] == [worker.generation + 1], 20, "replaced"
    )
    assert (await call(hostile.port, "GET", "/health")).status == 200
    wait_until(lambda: not child.is_running() or child.status() == "zombie", 5, "it is killed with its group")


@pytest.mark.parametrize("name", ["traceparent", "tracestate", "Authorization"])
async def test_a_header_that_is_no_text_costs_nothing(hostile: Instance, name: str) -> None:
    session = new_session()
    headers = {"Content-Type": "application/json", name: "\xff"}
    body = turn_body(session, "fine", stream=False)
    assert (await call(hostile.port, "POST", "/invoke", body=body, headers=headers)).status == 200
    assert await texts(hostile.port, session, "goes on") == ["goes on"]


async def test_the_worker_of_a_turn_that_ignores_its_cancellation_ends(
    start_instance: Callable[..., Instance],
) -> None:
    supervisor = {"soak": 0, "stop_timeout": 1}
    instance = start_instance(workers=1, sessions={"cancel_grace": 1}, supervisor=supervisor)
    (old,) = instance.ready_workers()
    session = new_session()
    async with Stream(instance.port, session, [{"say": "x"}, {"deaf": 600}]) as stream:
        await stream.until(events=1)
    await eventually(
        lambda: [w.generation for w in instance.workers()] == [old.generation + 1],
        20,
        "only the new one is left",
    )
    assert await texts(instance.port, session, "goes on") == ["goes on"]
