"""Secrets of a configuration never appear in what an instance prints or serves."""

import asyncio
import json
import signal
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from agentscope_protocol.config.problems import SECRET_KEYS
from tests.harness.instance import COMMAND, Instance, environment
from tests.harness.projects import written
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.agentscope

CONFIG: Final = """
    models:
      main:
        provider: openai
        model: m
        api_key: ${SECRET_API_KEY}
        base_url: http://127.0.0.1:9/v1
        client_kwargs:
          max_retries: 0
          default_headers: {X-Client: "${SECRET_CLIENT}"}
          timeout: 5
    server:
      auth_token: ${SECRET_AUTH_TOKEN}
    platform:
      endpoint: http://user:${SECRET_USER}@127.0.0.1:9/?key=${SECRET_QUERY}
      instance_id: i-1
      token: ${SECRET_PLATFORM_TOKEN}
    session:
      redis_url: redis://:${SECRET_REDIS}@127.0.0.1:9
"""
APP: Final = """
    import logging

    from agentscope.message import Msg
    from agentscope.runtime import AgentApp, runtime


    class App(AgentApp):
        async def on_startup(self):
            logging.getLogger().setLevel(logging.DEBUG)
            print(runtime.config, repr(runtime.config.models), runtime.models, runtime.models.main)

        async def __call__(self, msg, ctx):
            logging.getLogger("app").info("asked with %s", runtime.config)
            if "raise" in str(msg.content):
                raise ValueError(f"no good: {runtime.config}")
            async for chunk in runtime.models.main.stream([msg]):
                yield Msg(name="a", content=chunk.text, role="assistant")
"""
MCP: Final = """
    mcp_servers:
      search:
        url: http://127.0.0.1:9/sse?key=${SECRET_QUERY}
        headers: {Authorization: "Bearer ${SECRET_HEADER}"}
"""
# Each secret is in a place where it is invalid, or next to an invalid value.
BROKEN: Final = """
    mcp_servers:
      search: {url: "ws://${SECRET_USER}@h/?${SECRET_QUERY}", headers: ["${SECRET_HEADER}"]}
    sessions: {on_busy: 1, token: "${SECRET_PLATFORM_TOKEN}", redis_url: "${SECRET_REDIS}"}
    agentscope: "${SECRET_API_KEY}"
    api_key: "${SECRET_API_KEY}"
    auth_token: {a: "${SECRET_AUTH_TOKEN}"}
"""
NAMES: Final = ("API_KEY", "CLIENT", "AUTH_TOKEN", "USER", "QUERY", "PLATFORM_TOKEN", "REDIS", "HEADER")
SECRETS: Final = {f"SECRET_{name}": f"hush-{name.lower()}" for name in NAMES}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return written(tmp_path / "project", APP, CONFIG)


def command(*arguments: str | Path) -> str:
    """Run a command to its end and return its output."""
    ran = subprocess.run(
        [COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(**SECRETS),
        timeout=60,
        check=False,
    )
    return ran.stdout


async def request(port: int, text: str, token: str = SECRETS["SECRET_AUTH_TOKEN"]) -> str:
    """Return everything that the instance sends on a connection, including headers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"session_id": "me", "message": {"content": text}}) if text else ""
    head = "POST /invoke" if text else "GET /health"
    writer.write(
        f"{head} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    try:
        async with asyncio.timeout(30):
            return (await reader.read()).decode()
    finally:
        writer.close()


async def test_no_output_and_no_answer_contains_a_secret(
    project: Path, new_instance: Callable[..., Instance]
) -> None:
    instance = new_instance(project, workers=1, variables=SECRETS, arguments=("--log-level", "debug"))
    instance.start()
    served = [
        await request(instance.port, "hello"),  # the model server does not exist
        await request(instance.port, "raise"),
        await request(instance.port, "hello", token="wrong"),
        await request(instance.port, "\0"),
        await request(instance.port, ""),
        json.dumps(instance.address),
        *[path.read_text("utf-8", "replace") for path in instance.directory.rglob("*") if path.is_file()],
        *[" ".join(process.cmdline()) for process in instance.processes()],
    ]
    assert "APP_ERROR" in served[0]
    assert "no good: " in served[1]
    assert "models=" in served[1]
    assert "UNAUTHORIZED" in served[2]
    assert "healthy" in served[4]
    reload(instance, project, CONFIG + BROKEN, "reload refused")
    reload(instance, project, CONFIG + MCP, "rollout ")  # done or failed: nothing listens on the port
    assert instance.stop() == 0
    served += [instance.log, command("check", project), command("types", project)]
    assert "no good: " in instance.log
    assert "asked with " in instance.log, "the log contains the lines of the app"
    assert_no_secret("\n".join(served))


def test_the_error_of_a_client_library_is_reported_without_the_value(project: Path) -> None:
    """The errors of a library may repeat its arguments."""
    text = (project / "agentapp.yaml").read_text()
    (project / "agentapp.yaml").write_text(text.replace("timeout: 5", "http_client: ${SECRET_CLIENT}"))
    printed = command("check", project)
    assert "models.main" in printed
    assert_no_secret(printed)


def test_these_configurations_contain_every_secret_key() -> None:
    assert all(f"{key}:" in CONFIG + MCP for key in SECRET_KEYS)


def reload(instance: Instance, project: Path, config: str, logged: str) -> None:
    """Make the instance read this configuration, and wait for its log line."""
    (project / "agentapp.yaml").write_text(textwrap.dedent(config), "utf-8")
    instance.signal(signal.SIGHUP)
    wait_until(lambda: logged in instance.log, 30, f"the log has {logged!r}")


def assert_no_secret(text: str) -> None:
    found = [line[:300] for line in text.splitlines() if "hush" in line]
    assert not found
