"""The features that a zygote imports, and a fork request that is pending when the instance stops."""

import asyncio
import logging
import sys
from pathlib import Path

import pytest

from agentscope_protocol.config.settings import dump, load
from agentscope_supervisor.processes.launcher import Launcher, LaunchRequest, parts_of
from agentscope_supervisor.processes.spawn import Child
from agentscope_supervisor.system import kernel
from tests.harness.waiting import eventually

SLOT = "provider: {}, model: m, api_key: secret"


@pytest.mark.parametrize(
    "text, parts",
    [
        ("", []),
        (f"models: {{a: {{{SLOT.format('openai')}}}, b: {{{SLOT.format('openai')}}}}}", ["provider:openai"]),
        (
            f"models: {{a: {{{SLOT.format('ollama')}}}, b: {{{SLOT.format('gemini')}}}}}",
            ["provider:gemini", "provider:ollama"],
        ),
        ("mcp_servers: {s: {url: 'http://localhost:1/sse'}}", ["mcp"]),
        ("session: {backend: redis, redis_url: 'redis://:secret@localhost/0'}", ["redis"]),
        ("tracing: {endpoint: 'http://localhost:4318/v1/traces'}", ["tracing"]),
    ],
)
def test_parts_contain_only_used_features_and_no_secret(text: str, parts: list[str]) -> None:
    assert parts_of(load(text, source="agentapp.yaml", env={})) == parts


SILENT_ZYGOTE = """
import json, socket, sys
if "--preload" in sys.argv:
    link = socket.socket(fileno=int(sys.argv[-1]))
    link.recv(65536)
    link.send(json.dumps({"ready": 1}).encode())
    link.recv(65536)
    print("asked to fork", flush=True)
    link.recv(65536)
"""


async def test_a_fork_request_that_is_pending_at_stop_fails_without_another_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernel, "become_subreaper", lambda: True)  # without making this process a subreaper
    caplog.set_level(logging.INFO)
    loop = asyncio.get_running_loop()
    settings = load("supervisor: {preload: true}", source="agentapp.yaml", env={})
    launcher = Launcher(settings, [sys.executable, "-c", SILENT_ZYGOTE], tmp_path, loop.call_soon)
    on_started: list[Child] = []
    failed: list[OSError] = []
    launcher.start(
        LaunchRequest(
            *(1, 1, dump(settings), "mark"),
            on_line=lambda line: None,
            on_exit=lambda status: None,
            on_started=on_started.append,
            on_failed=failed.append,
        )
    )
    await eventually(lambda: "asked to fork" in caplog.text, 30, "the fork is under way")
    launcher.stop()
    await eventually(lambda: on_started or failed, 30, "the request is answered")
    assert (on_started, [str(error) for error in failed]) == ([], ["the zygote has ended"])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
