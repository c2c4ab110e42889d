"""`run` and `deploy` outside of a worker: the command of an instance, and the process that runs it."""

import asyncio
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from agentscope_runtime.engine import AgentApp
from agentscope_runtime.engine.deployers import LocalDeployManager
from agentscope_runtime.engine.deployers.utils.deployment_modes import DeploymentMode

from agentscope_worker.agentapp import serving
from tests.harness.instance import free_port

INSTANCE = """
import http.server, sys
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
    def log_message(self, *_): ...
http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Ready).serve_forever()
"""


def test_run_becomes_an_instance_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(os, "execv", lambda program, command: started.append((program, command)))
    main = SimpleNamespace(__spec__=None, __file__=str(tmp_path / "app.py"))
    monkeypatch.setitem(sys.modules, "__main__", main)
    AgentApp().run(host="127.0.0.1", port=8090)
    ((program, command),) = started
    assert command[0] == program
    assert program.endswith("/agentscope-supervisor")
    assert command[1:] == ["start", str(tmp_path), "--host", "127.0.0.1", "--port", "8090"]
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(RuntimeError, match=r"install agentscope-supervisor for this interpreter"):
        AgentApp().run()


@pytest.fixture
def as_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small server in the place of an instance."""
    monkeypatch.setattr(
        serving, "_command", lambda address, port: [sys.executable, "-c", INSTANCE, address, str(port)]
    )


@pytest.mark.usefixtures("as_instance")
async def test_deploy_waits_until_the_instance_is_ready_and_stop_ends_it() -> None:
    port = free_port()
    manager = LocalDeployManager(host="0.0.0.0", port=port)
    deployed = await AgentApp().deploy(manager, mode=DeploymentMode.DETACHED_PROCESS)
    assert deployed["url"] == f"http://127.0.0.1:{port}"
    assert manager.is_running
    process = manager._deployed[deployed["deploy_id"]]._process
    assert (await manager.stop(deployed["deploy_id"]))["success"]
    assert process.poll() is not None
    assert not manager.is_running


@pytest.mark.usefixtures("as_instance")
async def test_an_instance_that_exits_or_does_not_start_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(RuntimeError, match="the instance has exited with status 1"):
        await AgentApp().deploy(LocalDeployManager(host="256.0.0.1", port=1))
    monkeypatch.setattr(serving, "_command", lambda *_: [sys.executable, "-c", "input()"])
    deployed = serving.Deployed("127.0.0.1", free_port())
    monkeypatch.setattr(deployed._process, "poll", lambda: None)
    with pytest.raises(RuntimeError, match=r"has not become ready within 0\.01 s"):
        await deployed.ready(0.01)
    await asyncio.to_thread(deployed._process.wait, 10)
