"""Fixtures of the worker's tests that use AgentScope: a model server, projects, a runtime.

Every test here must pass on both majors of AgentScope; `MAJOR` is the installed major, for names that differ.
"""

import textwrap
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agentscope_protocol.config.settings import Settings
from agentscope_worker.runtime import runtime
from agentscope_worker.runtime.sessions.store import SessionStore
from tests.fakes.model_server import ModelServer
from tests.harness.redis_server import RedisServer
from tests.worker.session_contract import Files, Keys, Medium

MINIMAL_APP = """
    from agentscope.runtime import AgentApp

    class App(AgentApp):
        async def __call__(self, msg, ctx):
            yield msg
"""


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as running:
        yield running


@pytest.fixture
def write_project(tmp_path: Path) -> Callable[..., Path]:
    """Creates a project with `app.py` and `agentapp.yaml`; returns its folder."""

    def write(app: str = MINIMAL_APP, config: str = "") -> Path:
        folder = tmp_path / "project"
        folder.mkdir(exist_ok=True)
        (folder / "app.py").write_text(textwrap.dedent(app), encoding="utf-8")
        (folder / "agentapp.yaml").write_text(textwrap.dedent(config), encoding="utf-8")
        return folder

    return write


@pytest.fixture
async def start(write_project: Callable[..., Path]) -> AsyncIterator[Callable[..., Any]]:
    """Starts the runtime on a project with the given app and settings, and stops it after the test."""

    async def begin(app: str = MINIMAL_APP, **settings: Any) -> Path:
        project = write_project(app)
        await runtime.start(Settings.model_validate(settings), project)
        return project

    yield begin
    await runtime.shutdown()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis server shared by all tests. Each test leaves it empty, and must not stop it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server.start()
    server.kill()


@pytest.fixture(params=["json", "redis"])
async def medium(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Medium]:
    server: RedisServer | None = None
    if request.param == "redis":
        server = request.getfixturevalue("redis_server")
    made = Files(tmp_path / "sessions") if server is None else Keys(server.url)
    yield made
    await made.close()


@pytest.fixture
async def sessions(medium: Medium) -> AsyncIterator[SessionStore]:
    store = medium.store()
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def own_redis_server(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts a Redis server for one test, with additional options."""
    started: list[RedisServer] = []

    def start(*arguments: str) -> RedisServer:
        started.append(RedisServer(tmp_path, *arguments))
        return started[-1].start()

    yield start
    for server in started:
        server.kill()


def openai(server: ModelServer, **more: Any) -> Mapping[str, Any]:
    """Settings of a slot that uses the model server."""
    return {
        "provider": "openai",
        "model": "gpt-4",
        "api_key": "sk-test",
        "base_url": server.base_url,
        **more,
    }
