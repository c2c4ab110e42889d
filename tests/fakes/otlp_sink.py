"""A small sink for traces: accepts OTLP over HTTP, as protobuf and JSON, and prints each trace as a tree.

For tests, and for inspecting an app's traces without installing a collector. Run it as

    python -m tests.fakes.otlp_sink

and configure a project for it: `tracing: {endpoint: http://127.0.0.1:4318/v1/traces}`. A trace is printed
when no span of it has arrived for a while, and again in full if more spans arrive. The sink keeps all spans
and opens no connections of its own. SIGINT and SIGTERM stop it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

QUIET = 2.5  # seconds without new spans before a trace is printed; our exporters send every second
_SHOWN = (
    "http.response.status_code",
    "agentscope.outcome",
    "error.type",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
)


@dataclass(frozen=True)
class Span:
    """One received span. Ids are hexadecimal; `parent_id` is empty for a root. `process`: its resource's
    service.instance.id. `error`: whether its status is an error."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    process: str
    service: str
    error: bool
    events: list[str]


@dataclass
class OtlpSink:
    """The sink; `async with OtlpSink() as sink` runs it on a free port.

    Attributes:
        spans: The received spans, in order.
        content_types: The content types of the requests, in order.
        status: The HTTP status of the responses.
        hangs: Whether requests never get a response.
        moved_to: The URL to which requests are redirected; empty: they are not.
    """

    host: str = "127.0.0.1"
    port: int = 0
    spans: list[Span] = field(default_factory=list)
    content_types: list[str] = field(default_factory=list)
    status: int = 200
    hangs: bool = False
    moved_to: str = ""

    def __post_init__(self) -> None:
        self._came = asyncio.Event()
        self._runner: web.AppRunner | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}/v1/traces"

    async def __aenter__(self) -> OtlpSink:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def until(self, *names: str, within: float = 15.0) -> list[Span]:
        """All spans, once spans with these names (with repetitions) have arrived. Raises: AssertionError."""
        try:
            async with asyncio.timeout(within):
                while missing := Counter(names) - Counter(span.name for span in self.spans):
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            there = dict(Counter(span.name for span in self.spans))
            raise AssertionError(f"not within {within:g} s: {dict(missing)}; there: {there}") from None
        return self.spans

    async def came(self) -> None:
        """Wait for the next request."""
        self._came.clear()
        await self._came.wait()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.content_types.append(request.content_type)
        if self.hangs:
            self._came.set()
            await asyncio.Event().wait()
        if self.moved_to:
            self._came.set()
            return web.Response(status=307, headers={"Location": self.moved_to})
        if self.status == 200:
            self.spans.extend(read(body, request.content_type))
        self._came.set()
        return web.Response(status=self.status, content_type=request.content_type)


def read(body: bytes, content_type: str) -> Iterator[Span]:
    """The spans of one request."""
    if content_type == "application/json":
        export = json.loads(body)
    else:
        export = MessageToDict(ExportTraceServiceRequest.FromString(body))
    for each in export.get("resourceSpans", ()):
        resource = _attributes(each.get("resource", {}))
        for scoped in each["scopeSpans"]:
            for span in scoped["spans"]:
                yield Span(
                    trace_id=_hex(span["traceId"], 32),
                    span_id=_hex(span["spanId"], 16),
                    parent_id=_hex(span.get("parentSpanId", ""), 16),
                    name=span["name"],
                    start_ns=int(span["startTimeUnixNano"]),
                    end_ns=int(span["endTimeUnixNano"]),
                    attributes=_attributes(span),
                    process=str(resource.get("service.instance.id", "")),
                    service=str(resource.get("service.name", "")),
                    error=span.get("status", {}).get("code") in (2, "STATUS_CODE_ERROR"),
                    events=[event["name"] for event in span.get("events", ())],
                )


def _hex(identifier: str, digits: int) -> str:
    """An id in hexadecimal, as in OTLP's JSON; protobuf's own JSON form uses base64."""
    return identifier if len(identifier) in (0, digits) else base64.b64decode(identifier).hex()


def _attributes(holder: dict[str, Any]) -> dict[str, Any]:
    return {each["key"]: _value(each.get("value", {})) for each in holder.get("attributes", ())}


def _value(value: dict[str, Any]) -> Any:
    for kind, content in value.items():
        return int(content) if kind == "intValue" else content
    return None


def tree(spans: list[Span], trace_id: str) -> str:
    """One trace as text: a line for each span, below its parent, in order of start time."""
    mine = sorted((span for span in spans if span.trace_id == trace_id), key=lambda span: span.start_ns)
    ids = {span.span_id for span in mine}
    lines = [f"trace {trace_id}"]

    def add(siblings: list[Span], indent: str) -> None:
        for number, span in enumerate(siblings, 1):
            last = number == len(siblings)
            lines.append(_line(indent + ("└─ " if last else "├─ ") + span.name, span))
            below = [each for each in mine if each.parent_id == span.span_id]
            add(below, indent + ("   " if last else "│  "))

    add([span for span in mine if span.parent_id not in ids], "")
    return "\n".join(lines)


def _line(name: str, span: Span) -> str:
    told = [f"{key.rsplit('.', 1)[1]}={span.attributes[key]}" for key in _SHOWN if key in span.attributes]
    milliseconds = (span.end_ns - span.start_ns) / 1e6
    return f"{name:36} {span.process:10} {milliseconds:8.1f} ms  {' '.join(told)}".rstrip()


async def _serve(host: str, port: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with OtlpSink(host, port) as sink:
        print(sink.endpoint, flush=True)
        printing = asyncio.create_task(_print(sink))
        await stopped.wait()
        printing.cancel()


async def _print(sink: OtlpSink) -> None:
    """Print each trace that has received no span for `QUIET` seconds."""
    printed = 0
    while True:
        await sink.came()
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(QUIET):
                    await sink.came()
        for trace_id in dict.fromkeys(span.trace_id for span in sink.spans[printed:]):
            print(tree(sink.spans, trace_id), end="\n\n", flush=True)
        printed = len(sink.spans)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4318, help="0: any free port; its URL is printed")
    options = parser.parse_args()
    asyncio.run(_serve(options.host, options.port))


if __name__ == "__main__":
    main()
