"""`runtime`: the order of startup and shutdown, and errors for use out of order."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agentscope_protocol.config.settings import Settings, SettingsError
from agentscope_worker.runtime import runtime
from agentscope_worker.runtime.singleton import Runtime
from tests.fakes.model_server import ModelServer

pytestmark = pytest.mark.agentscope

Write = Callable[..., Path]

APP = """
    from agentscope.runtime import AgentApp, runtime

    log = ["imported with " + ", ".join(runtime.models.keys())]

    class App(AgentApp):
        async def on_startup(self):
            log.append(f"started, initialized: {runtime.is_initialized}")
        async def on_shutdown(self):
            log.append("stopped with " + ", ".join(runtime.models.keys()))
            if len(log) > 3:
                raise ValueError("no")
        async def __call__(self, msg, ctx):
            yield msg
"""
CONFIG = """
    models:
      main:
        provider: openai
        model: gpt-4
        api_key: ${KEY_OF_THE_TEST}
        base_url: http://127.0.0.1:9/v1
"""


@pytest.fixture(autouse=True)
async def stopped(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setenv("KEY_OF_THE_TEST", "sk-1")
    yield
    await runtime.shutdown()


@pytest.mark.parametrize("name", ["models", "tools", "session", "app", "config"])
def test_use_before_initialize_raises(name: str) -> None:
    with pytest.raises(RuntimeError, match=rf"runtime\.{name} .*await runtime\.initialize\(\)"):
        getattr(Runtime(), name)
    assert not Runtime().is_initialized


async def test_initialize_and_shutdown_run_in_order(write_project: Write) -> None:
    project = write_project(APP, CONFIG)
    await runtime.initialize(project_path=project)
    log = __import__("app").log
    assert runtime.is_initialized
    assert list(runtime.models) == ["main"]
    assert runtime.models.main.client.api_key == "sk-1"
    with pytest.raises(RuntimeError, match="already initialized"):
        await runtime.initialize(project_path=project)
    await runtime.shutdown()
    assert log == ["imported with main", "started, initialized: False", "stopped with main"]
    assert not runtime.is_initialized
    with pytest.raises(RuntimeError, match="initialize"):
        _ = runtime.models
    await runtime.shutdown()
    assert len(log) == 3
    await runtime.initialize(project_path=project)


async def test_an_error_in_on_shutdown_leaves_nothing_open(write_project: Write) -> None:
    await runtime.initialize(project_path=write_project(APP, CONFIG))
    __import__("app").log.extend(["so", "many"])
    with pytest.raises(ValueError, match="no"):
        await runtime.shutdown()
    assert not runtime.is_initialized


async def test_initialize_accepts_another_configuration_file(
    write_project: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_project(config="session: {save_dir: state}")
    (project / "agentapp.yaml").rename(project / "other.yaml")
    monkeypatch.chdir(project)
    await runtime.initialize("other.yaml")
    await runtime.session.save_session_state("s")
    assert list((project / "state").glob("*.json"))


async def test_an_invalid_file_raises_settings_error(write_project: Write, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="modles"):
        await runtime.initialize(project_path=write_project(config="modles: {}"))
    with pytest.raises(FileNotFoundError):
        await runtime.initialize(project_path=tmp_path / "nowhere")
    assert not runtime.is_initialized


async def test_shutdown_closes_model_connections(write_project: Write, server: ModelServer) -> None:
    slot = {"provider": "openai", "model": "m", "api_key": "k", "base_url": server.base_url}
    await runtime.start(Settings.model_validate({"models": {"main": slot}}), write_project())
    async for _ in runtime.models.main.stream([]):
        pass
    client = runtime.models.main.client
    await runtime.shutdown()
    assert client.is_closed()
