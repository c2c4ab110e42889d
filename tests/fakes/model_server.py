"""A small model server that implements five providers' wire formats, for tests and for offline development.

It echoes the last user text: word by word if the request asks for a stream, otherwise at once. The user's
text controls the response:

    call NAME {"json": "arguments"}    the model calls that tool, then echoes the tool's result
    twice call NAME {...}              the same with two parallel calls, in OpenAI's format
    fail STATUS                        the response has that HTTP status
    delay SECONDS TEXT                 the response to TEXT, with the given pause before each word
    limit N TEXT                       the response to TEXT, which reaches the limit of tokens after N
                                       characters of its call, or N words
    close N TEXT                       the stream of the response to TEXT, closed after N pieces
    break N TEXT                       the same, but the connection breaks
    anything else                      "Echo: " and the text

Like the providers, it responds with 400 to a history in which a tool call has no result or no valid
arguments. It validates neither keys nor model names, and opens no connections of its own. Run it as

    python -m tests.fakes.model_server --port 9000 --delay 0.05

and configure a project's slots for it, with any `api_key` and `model`:

    provider: openai       base_url: http://127.0.0.1:9000/v1
    provider: anthropic    base_url: http://127.0.0.1:9000
    provider: dashscope    base_url: http://127.0.0.1:9000/compatible-mode/v1   (AgentScope 2.x)
                           base_url: http://127.0.0.1:9000/api/v1               (AgentScope 1.x)
    provider: gemini       base_url: http://127.0.0.1:9000
    provider: ollama       base_url: http://127.0.0.1:9000

SIGINT and SIGTERM stop it. Read next: `wire_formats`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web
from multidict import CIMultiDictProxy

from tests.fakes.wire_formats import Answer, Anthropic, Call, DashScope, Gemini, Ollama, OpenAI, WireFormat

PROVIDERS: Final = ("openai", "anthropic", "dashscope", "gemini", "ollama")

_BASE_PATHS: Final = {"openai": "/v1", "dashscope": "/compatible-mode/v1"}
_DASHSCOPE_1: Final = "/api/v1"  # AgentScope 1.x uses DashScope's own client
_ROUTES: Final[tuple[tuple[str, WireFormat], ...]] = (
    ("/v1/chat/completions", OpenAI()),
    ("/compatible-mode/v1/chat/completions", OpenAI()),
    ("/v1/messages", Anthropic()),
    ("/api/v1/services/aigc/{group}/generation", DashScope()),
    (r"/{version:v1\w*}/models/{model}:{action:generateContent|streamGenerateContent}", Gemini()),
    ("/api/chat", Ollama()),
)

_THREAD_STARTS_WITHIN: Final = 10.0  # seconds; milliseconds on an idle machine
_CALL = re.compile(r"(twice )?call (\w+) (\{.*\})", re.DOTALL)
_FAIL = re.compile(r"fail (\d{3})")
_DELAY = re.compile(r"delay (\d+(?:\.\d+)?) (.*)", re.DOTALL)
_LIMIT = re.compile(r"limit (\d+) (.*)", re.DOTALL)
_CLOSE = re.compile(r"(close|break) (\d+) (.*)", re.DOTALL)


@dataclass(frozen=True)
class Request:
    """One received request."""

    method: str
    path: str
    headers: CIMultiDictProxy[str]
    body: dict[str, Any]


@dataclass
class ModelServer:
    """The server; `async with ModelServer() as server` runs it on a free port.

    Attributes:
        delay: Seconds before each word; a response without a stream waits for all of its words.
        requests: The received requests, in order.
        streaming: Number of requests in progress, streams or not.
        most_at_once: The maximum of `streaming`.
        cut_off: Number of requests that the client closed before the end of the response.
        pieces: Number of pieces of streams that were sent.
    """

    host: str = "127.0.0.1"
    port: int = 0
    delay: float = 0.0
    requests: list[Request] = field(default_factory=list)
    streaming: int = 0
    most_at_once: int = 0
    cut_off: int = 0
    pieces: int = 0

    def __post_init__(self) -> None:
        self._runner: web.AppRunner | None = None

    @property
    def base_url(self) -> str:
        """The base URL for OpenAI."""
        return self.url("openai")

    def url(self, provider: str, major: int = 2) -> str:
        """The `base_url` of a provider's slot, on a major of AgentScope."""
        path = _DASHSCOPE_1 if (provider, major) == ("dashscope", 1) else _BASE_PATHS.get(provider, "")
        return f"http://{self.host}:{self.port}{path}"

    @property
    def connections(self) -> int:
        """Number of open connections, including idle ones."""
        assert self._runner is not None
        assert self._runner.server is not None
        return len(self._runner.server.connections)

    async def __aenter__(self) -> ModelServer:
        app = web.Application()
        for path, wire in _ROUTES:
            app.router.add_post(path, _handler(self, wire))
        # A disconnected client must end its response here, so that it is counted.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def answer(self, request: web.Request, wire: WireFormat) -> web.StreamResponse:
        """Record a request in this format, and respond to it."""
        try:
            body = await request.json()
            role, text = _last_said(wire, body)
            problem = wire.problem(body)
        except (ValueError, LookupError, TypeError) as error:
            problem = f"this is no request in this format: {error!r}"
        if problem is not None:
            return web.json_response(wire.error(400, problem), status=400)
        self.requests.append(Request(request.method, request.path, request.headers, body))
        if failure := _FAIL.fullmatch(text):
            status = int(failure[1])
            return web.json_response(wire.error(status, text), status=status)
        delay = self.delay
        if slowly := _DELAY.fullmatch(text):
            delay, text = float(slowly[1]), slowly[2]
        end, most = "", None
        if closing := _CLOSE.fullmatch(text):
            end, most, text = closing[1], int(closing[2]), closing[3]
        answer = _answer(request.match_info.get("model") or wire.model(body), role, text)
        with self._counted():
            if wire.streams(body, request.path, request.headers):
                pieces = itertools.islice(wire.pieces(answer, body), most)
                response = await self._stream(request, delay, wire.stream_type, pieces)
                if end == "break" and request.transport is not None:
                    request.transport.close()
                return response
            await asyncio.sleep(delay * len(answer.words))
            return web.json_response(wire.whole(answer))

    async def _stream(
        self, request: web.Request, delay: float, content_type: str, pieces: Iterator[bytes]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        for piece in pieces:
            await asyncio.sleep(delay)
            await response.write(piece)
            self.pieces += 1
        return response

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self.streaming += 1
        self.most_at_once = max(self.most_at_once, self.streaming)
        try:
            yield
        except (asyncio.CancelledError, ConnectionError):
            self.cut_off += 1
            raise
        finally:
            self.streaming -= 1


@contextlib.contextmanager
def in_thread() -> Iterator[ModelServer]:
    """A server on an event loop of its own, for tests that create and close loops."""
    ready: Future[tuple[ModelServer, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        stopped = asyncio.Event()
        async with ModelServer() as server:
            ready.set_result((server, asyncio.get_running_loop(), stopped))
            await stopped.wait()

    with ThreadPoolExecutor(1, thread_name_prefix="model-server") as pool:
        serving = pool.submit(asyncio.run, serve())
        server, loop, stopped = ready.result(_THREAD_STARTS_WITHIN)
        try:
            yield server
        finally:
            loop.call_soon_threadsafe(stopped.set)
            serving.result()


def _handler(server: ModelServer, wire: WireFormat) -> Any:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await server.answer(request, wire)

    return handle


def _last_said(wire: WireFormat, body: dict[str, Any]) -> tuple[str, str]:
    """Role and text of the last message of a user or a tool."""
    for message in reversed(list(wire.said(body))):
        texts = list(message.texts)
        if message.role == "user":  # AgentScope 2.x sends the time and its instructions in this form
            texts = [text for text in texts if not text.startswith("<system-reminder>")]
        if message.role in ("user", "tool") and texts:
            return message.role, "".join(texts)
    return "user", ""


def _answer(model: str, role: str, text: str) -> Answer:
    if limited := _LIMIT.fullmatch(text):
        kept, answer = int(limited[1]), _answer(model, role, limited[2])
        call = answer.call and Call(answer.call.name, answer.call.arguments[:kept])
        return Answer(model, answer.words[:kept], call, is_cut=True)
    if role == "user" and (match := _CALL.fullmatch(text)):
        with contextlib.suppress(json.JSONDecodeError):
            call = Call(match[2], match[3])
            if isinstance(call.input, dict):
                return Answer(model, call=call, times=2 if match[1] else 1)
    return Answer(model, tuple(re.findall(r"\s*\S+", f"Echo: {text}")))


async def _serve(host: str, port: int, delay: float) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with ModelServer(host, port, delay) as server:
        for provider in PROVIDERS:
            print(f"{provider:<12}{server.url(provider)}", flush=True)
        print(f"{'dashscope 1.x':<12} {server.url('dashscope', 1)}", flush=True)
        await stopped.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port; the URLs are printed")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each word")
    options = parser.parse_args()
    asyncio.run(_serve(options.host, options.port, options.delay))


if __name__ == "__main__":
    main()
