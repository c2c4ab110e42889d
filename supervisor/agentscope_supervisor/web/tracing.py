"""The supervisor's spans, sent over OTLP/HTTP: one for each request to /invoke, and one for its wait.

The supervisor sends these spans itself, not through a worker, for two reasons: the most important ones have
no worker (a request that was refused, or whose worker crashed), and only the supervisor knows when a request
ends. It does not use the OpenTelemetry SDK, to save memory: `otlp` has the small part that is needed.

A turn never waits for tracing. Spans wait in a bounded queue until a task sends them in batches. Spans that
do not fit in the queue, or that the endpoint does not accept, are dropped and counted in a log line. Tracing
delays the end of the supervisor by `CLOSE_WITHIN` at most. Without the section `tracing`, no object of this
module exists. A span never contains any part of a message.
"""

import asyncio
import contextlib
import logging
import os
import random
import time
from collections import deque
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

import aiohttp
import orjson

from agentscope_supervisor import __version__
from agentscope_supervisor.domain.errors import Failure
from agentscope_supervisor.domain.run import Run
from agentscope_supervisor.web import otlp
from agentscope_supervisor.web.otlp import Context, Kind, Span
from agentscope_supervisor.web.request_record import CLIENT_LEFT

log = logging.getLogger(__name__)

QUEUED: Final = 4096  # spans that wait to be sent: 2 seconds at 1000 requests per second; 2 MB
BATCH: Final = 512  # spans in one export request, as in OpenTelemetry's SDK
SEND_EVERY: Final = 1.0  # seconds between two export requests
SEND_WITHIN: Final = 5.0  # seconds for one export request
CLOSE_WITHIN: Final = 1.0  # seconds for the last spans, when the supervisor ends
COMPLAIN_EVERY: Final = 60.0  # seconds between two log lines about an endpoint that fails


class RequestTrace:
    """The trace of one request in progress. `headers` make its span the parent of the worker's span."""

    def __init__(self, parent: Context | None, route: str, now: float) -> None:
        """`parent`: the span of the caller. `now`: in the event loop's time, as all times here."""
        trace_id = parent.trace_id if parent is not None else f"{random.getrandbits(128) or 1:032x}"
        sampled, state = (parent.sampled, parent.state) if parent is not None else (True, "")
        self._parent_id: Final = parent.span_id if parent is not None else ""
        self._context: Final = Context(trace_id, _new_span_id(), sampled, state)
        self._route: Final = route
        self._began: Final = now
        self._began_ns: Final = time.time_ns()

    @property
    def headers(self) -> dict[str, str]:
        return self._context.headers()

    def over(self, now: float, status: int, failure: Failure | None, run: Run | None) -> list[Span]:
        """The spans of the request, which has ended. `run`: of its turn; None: no turn was accepted."""
        if not self._context.sampled:
            return []
        attributes: dict[str, otlp.Value] = {
            "http.request.method": "POST",
            "http.route": self._route,
            "url.path": self._route,
            "http.response.status_code": status,
        }
        made: list[Span] = []
        if run is not None:
            failure = failure or run.failure
            attributes["agentscope.run_id"] = run.run_id
            if run.worker is not None:
                attributes["agentscope.worker"] = run.worker
            if run.usage is not None:  # named as in the semantic conventions for GenAI
                attributes["gen_ai.usage.input_tokens"] = run.usage.input_tokens
                attributes["gen_ai.usage.output_tokens"] = run.usage.output_tokens
                attributes["gen_ai.response.model"] = run.usage.models[0].model
            made.append(self._wait(run, now))
        if failure is not None:
            attributes["error.type"] = str(failure.code)
        elif status == CLIENT_LEFT:
            attributes["error.type"] = "client_left"
        # A status below 500 is the caller's error, and is no error of this server's span.
        error = str(failure.code) if failure is not None and failure.status >= 500 else None
        made.insert(
            0,
            self._span(
                f"POST {self._route}", Kind.SERVER, self._context, self._began, now, attributes, error
            ),
        )
        return made

    def _wait(self, run: Run, now: float) -> Span:
        taken = run.taken_at
        context = Context(self._context.trace_id, _new_span_id(), True, self._context.state)
        attributes: dict[str, otlp.Value] = {"agentscope.run_id": run.run_id}
        error = None if taken is not None else "no worker took the turn"
        until = taken if taken is not None else now
        return self._span("wait", Kind.INTERNAL, context, run.started_at, until, attributes, error)

    def _span(
        self,
        name: str,
        kind: Kind,
        context: Context,
        start: float,
        end: float,
        attributes: Mapping[str, otlp.Value],
        error: str | None,
    ) -> Span:
        parent = self._parent_id if context is self._context else self._context.span_id
        return Span(name, kind, context, parent, self._at(start), self._at(end), attributes, error)

    def _at(self, moment: float) -> int:
        """Nanoseconds since 1970. `moment`: in the event loop's time."""
        return self._began_ns + round((moment - self._began) * 1e9)


class Tracing:
    """Creates and sends the spans of one instance. Must be created on the event loop."""

    def __init__(self, endpoint: str, service: str) -> None:
        """`endpoint`: URL that accepts OTLP/HTTP. `service`: the instance's name in traces; the environment
        variable OTEL_SERVICE_NAME overrides it, as in the workers."""
        self._endpoint: Final = endpoint
        self._resource: Final = {
            "service.name": os.environ.get("OTEL_SERVICE_NAME") or service,
            "service.instance.id": "supervisor",
        }
        self._loop: Final = asyncio.get_running_loop()
        self._queue: Final[deque[Span]] = deque()
        self._dropped = 0
        self._complained = -COMPLAIN_EVERY
        self._session: aiohttp.ClientSession | None = None
        self._sending: asyncio.Task[None] | None = None
        self._closing: Final = asyncio.Event()

    def request(self, headers: Mapping[str, str], route: str) -> RequestTrace:
        """Begin the trace of a request. `headers`: names in lower case, or case-insensitive."""
        return RequestTrace(otlp.caller(headers), route, self._loop.time())

    def record(self, trace: RequestTrace, status: int, failure: Failure | None, run: Run | None) -> None:
        """A request has ended: queue its spans. The arguments are those of `RequestTrace.over`."""
        made = trace.over(self._loop.time(), status, failure, run)
        if len(self._queue) + len(made) > QUEUED:
            self._dropped += len(made)
            return
        self._queue.extend(made)
        if self._queue and self._sending is None:
            self._sending = self._loop.create_task(self._send_all())

    async def close(self) -> None:
        """Send the queued spans within `CLOSE_WITHIN`, and drop the rest."""
        self._closing.set()
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=CLOSE_WITHIN)
            if self._sending is not None:
                self._sending.cancel()
                log.warning("spans were not sent before the shutdown", extra={"spans": len(self._queue)})
        if self._session is not None:
            await self._session.close()

    async def _send_all(self) -> None:
        """Send batches until the queue is empty, each after a pause in which more spans arrive."""
        try:
            while self._queue:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SEND_EVERY):
                        await self._closing.wait()
                await self._send([self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))])
        except Exception:
            log.exception("sending spans failed")
        finally:
            self._sending = None

    async def _send(self, batch: list[Span]) -> None:
        if self._session is None:
            # Proxies and headers from the environment apply here as they do to the workers' exporter.
            self._session = aiohttp.ClientSession(
                headers={"Content-Type": "application/json", **_headers_of_environment()},
                timeout=aiohttp.ClientTimeout(total=SEND_WITHIN),
                trust_env=True,
            )
        body = orjson.dumps(otlp.encode(batch, self._resource, __name__, __version__))
        try:
            # No redirects: the key of the collector must not be sent to another server.
            async with self._session.post(self._endpoint, data=body, allow_redirects=False) as response:
                if response.status >= 300:
                    self._lose(len(batch), f"status {response.status}")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._lose(len(batch), type(error).__name__)

    def _lose(self, count: int, reason: str) -> None:
        self._dropped += count
        now = self._loop.time()
        if now - self._complained >= COMPLAIN_EVERY:
            self._complained = now
            log.warning(
                "spans are lost: tracing.endpoint did not accept them",
                extra={"reason": reason, "spans": self._dropped},
            )
            self._dropped = 0


def _new_span_id() -> str:
    return f"{random.getrandbits(64) or 1:016x}"


def _headers_of_environment() -> dict[str, str]:
    """The headers in OTEL_EXPORTER_OTLP_TRACES_HEADERS or OTEL_EXPORTER_OTLP_HEADERS, usually with the key of
    a collector. Their form is `name=value,name=value`, percent-encoded."""
    names = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
    text = next((os.environ[name] for name in names if os.environ.get(name)), "")
    pairs = (pair.partition("=") for pair in text.split(",") if "=" in pair)
    return {unquote(name).strip(): unquote(value).strip() for name, _, value in pairs}
