"""A small model server that speaks OpenAI's chat completions, for tests and for trying things out.

It echoes the last user text, word by word when the request asks for a stream (with the usage chunk
that OpenAI sends last), whole otherwise. Answers are scripted by what the user writes:

    call NAME {"json": "arguments"}    the model calls that tool, then echoes what the tool returned
    fail STATUS                        the request is answered with that status
    anything else                      "Echo: " and the text

It checks nothing, and never speaks to anybody else. Run it as

    python -m tests.fakes.openai_server --port 9000 --delay 0.05

and point a project at it: `base_url: http://127.0.0.1:9000/v1`. SIGINT and SIGTERM end it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import signal
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from multidict import CIMultiDictProxy

_CALL = re.compile(r"call (\w+) (\{.*\})", re.DOTALL)
_FAIL = re.compile(r"fail (\d{3})")


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    path: str
    headers: CIMultiDictProxy[str]
    body: dict[str, Any]


@dataclass
class OpenAIServer:
    """The server; `async with OpenAIServer() as server` runs it on a free port.

    Attributes:
        delay: Seconds before each word of a stream.
        requests: What was asked, in order.
        streaming: Streams that are being answered now.
        cut_off: Streams that the client left before their end.
    """

    host: str = "127.0.0.1"
    port: int = 0
    delay: float = 0.0
    requests: list[Request] = field(default_factory=list)
    streaming: int = 0
    cut_off: int = 0

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self._runner: web.AppRunner | None = None
        self._connections = 0

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    @property
    def connections(self) -> int:
        """Open connections, idle ones included."""
        assert self._runner is not None
        assert self._runner.server is not None
        return len(self._runner.server.connections)

    async def __aenter__(self) -> OpenAIServer:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        # A client that leaves must end its stream here, to be counted.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(Request(request.path, request.headers, body))
        role, text = _last_said(body["messages"])
        if failure := _FAIL.fullmatch(text):
            return web.json_response({"error": {"message": text}}, status=int(failure[1]))
        calls = _tool_calls(text) if role == "user" else None
        answer = "" if calls else f"Echo: {text}"
        if body.get("stream"):
            return await self._stream(request, body, answer, calls)
        message: dict[str, Any] = {"role": "assistant", "content": answer}
        if calls:
            message |= {"content": None, "tool_calls": calls}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(
            self._envelope("chat.completion", body, [choice]) | {"usage": _usage(answer)}
        )

    async def _stream(
        self, request: web.Request, body: dict[str, Any], answer: str, calls: list[Any] | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.streaming += 1
        try:
            for delta in _deltas(answer, calls):
                await asyncio.sleep(self.delay)
                await self._send(response, body, [{"index": 0, "delta": delta}])
            end = {"index": 0, "delta": {}, "finish_reason": "tool_calls" if calls else "stop"}
            await self._send(response, body, [end])
            if (body.get("stream_options") or {}).get("include_usage"):
                await self._send(response, body, [], usage=_usage(answer))
            await response.write(b"data: [DONE]\n\n")
        except (asyncio.CancelledError, ConnectionError):
            self.cut_off += 1
            raise
        finally:
            self.streaming -= 1
        return response

    async def _send(
        self, response: web.StreamResponse, body: dict[str, Any], choices: list[Any], **more: Any
    ) -> None:
        chunk = self._envelope("chat.completion.chunk", body, choices) | more
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def _envelope(self, kind: str, body: dict[str, Any], choices: list[Any]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{next(self._numbers)}",
            "object": kind,
            "created": 0,
            "model": body.get("model"),
            "choices": choices,
        }


def _last_said(messages: list[dict[str, Any]]) -> tuple[str, str]:
    """Role and text of the last message of a user or a tool."""
    for message in reversed(messages):
        if message["role"] in ("user", "tool"):
            content = message["content"]
            if not isinstance(content, str):
                content = "".join(part.get("text", "") for part in content)
            if not content.startswith("<system-reminder>"):  # AgentScope 2.x tells the time so
                return message["role"], content
    return "user", ""


def _tool_calls(text: str) -> list[dict[str, Any]] | None:
    match = _CALL.fullmatch(text)
    if match is None:
        return None
    function = {"name": match[1], "arguments": match[2]}
    return [{"index": 0, "id": f"call_{match[1]}", "type": "function", "function": function}]


def _deltas(answer: str, calls: list[Any] | None) -> list[dict[str, Any]]:
    if calls:
        return [{"role": "assistant", "tool_calls": calls}]
    words = re.findall(r"\s*\S+", answer)
    return [{"role": "assistant", "content": ""}, *({"content": word} for word in words)]


def _usage(answer: str) -> dict[str, int]:
    words = len(answer.split())
    return {"prompt_tokens": 1, "completion_tokens": words, "total_tokens": words + 1}


async def _serve(host: str, port: int, delay: float) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with OpenAIServer(host, port, delay) as server:
        print(server.base_url, flush=True)
        await stopped.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port; its URL is printed")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each word")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(options.host, options.port, options.delay))


if __name__ == "__main__":
    main()
