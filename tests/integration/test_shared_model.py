"""Sessions that talk at once on one worker, with one model and one Toolkit: no answer crosses."""

import asyncio
import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

import pytest

from tests.fakes.model_server import ModelServer, in_thread
from tests.harness.client import new_session, texts
from tests.harness.instance import Instance
from tests.harness.projects import copied

pytestmark = pytest.mark.agentscope

MAJOR: Final = int(version("agentscope").split(".")[0])
SESSIONS: Final = 8
ROUNDS: Final = 4  # of each kind of turn

# What a session says carries its mark, and nobody else's.
MARK = re.compile(r"mark(\d+)x")
# How each major calls the tool by which a model hands in its structured output.
HAND_IN: Final = {1: "generate_response", 2: "GenerateStructuredOutput"}[MAJOR]


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with in_thread() as running:
        running.delay = 0.005  # seconds for each word: eight answers overlap
        yield running


@pytest.fixture(scope="module")
def instance(server: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("shared-model")
    main = {"provider": "openai", "model": "m", "api_key": "k", "base_url": server.base_url}
    project = copied("agents", folder / "project", models={"main": main})
    with Instance(project, folder, workers=1) as running:
        yield running.start()


async def converse(port: int, number: int) -> None:
    """Plain, tool and structured turns of one session, each answer checked."""
    session = new_session("shared")
    for turn in range(ROUNDS):
        own = f"mark{number}x{turn}"
        said = await texts(port, session, f"{own} one two three")
        assert "".join(said) == f"Echo: {own} one two three"
        said = await texts(port, session, f'call look {{"word": "{own}"}}')
        assert "".join(said) == f"Echo: {own} found"
        answer = 1000 * number + turn
        call = f'call {HAND_IN} {{"number": {answer}}}'
        (said_once,) = await texts(port, session, call, metadata={"structured": True})
        assert json.loads(said_once) == {"number": answer}


async def test_no_answer_crosses(instance: Instance, server: ModelServer) -> None:
    async with asyncio.TaskGroup() as sessions:
        for number in range(SESSIONS):
            sessions.create_task(converse(instance.port, number))
    asked = [set(MARK.findall(json.dumps(request.body))) for request in server.requests]
    assert all(len(marks) == 1 for marks in asked), "a prompt holds what another session said"
    assert set().union(*asked) == {str(number) for number in range(SESSIONS)}
    assert server.most_at_once >= SESSIONS // 2
