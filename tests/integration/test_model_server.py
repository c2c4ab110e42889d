"""The fake model server as a program of its own, for people who develop apps offline."""

import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.agentscope

ROOT = Path(__file__).resolve().parents[2]
ENDS_WITHIN = 10.0  # seconds; aiohttp waits one for streams that go on


@pytest.fixture
def program() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.fakes.model_server", "--port", "0", "--delay", "0.01"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def asked(port: int, path: str, body: object) -> Iterator[http.client.HTTPResponse]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            yield response


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_names_its_urls_answers_and_ends(program: subprocess.Popen[str], number: signal.Signals) -> None:
    assert program.stdout is not None
    lines = [program.stdout.readline() for _ in range(6)]
    matches = [re.fullmatch(r"(\w+)(?: 1\.x)?\s+http://127\.0\.0\.1:(\d+)(\S*)\n", line) for line in lines]
    urls = [(match[1], match[3]) for match in matches if match is not None]
    assert urls == [
        ("openai", "/v1"),
        ("anthropic", ""),
        ("dashscope", "/compatible-mode/v1"),
        ("gemini", ""),
        ("ollama", ""),
        ("dashscope", "/api/v1"),
    ]
    assert matches[0] is not None
    port = int(matches[0][2])
    said = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": False}
    with asked(port, "/api/chat", said) as answer:
        assert json.load(answer)["message"]["content"] == "Echo: hello"
    with asked(port, "/v1/chat/completions", {"no": "messages"}) as refused:
        assert refused.status == 400
        assert "no request in this format" in json.load(refused)["error"]["message"]
    endless = {**said, "messages": [{"role": "user", "content": "word " * 10_000}], "stream": True}
    with asked(port, "/v1/chat/completions", endless) as stream:
        assert stream.readline().startswith(b"data: ")
        program.send_signal(number)
        assert program.wait(ENDS_WITHIN) == 0
    assert program.stderr is not None
    assert program.stderr.read() == ""
