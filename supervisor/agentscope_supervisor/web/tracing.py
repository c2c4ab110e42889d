"""The supervisor's spans: of each request to /invoke and of its wait for a worker, sent over OTLP/HTTP.

They are sent from here, not handed to a worker to send, because those that matter most have none: a request
that was refused, or whose worker died under it; and because the end of a request is known only here, when
the client has the last byte. The SDK stays out (memory): `otlp` has the little of it that this needs.

A turn never waits for any of this. Spans lie in a bounded queue until a task sends them, a batch at a time;
what finds the queue full, and what an endpoint that is down or hangs does not take, is dropped and counted in
a log line. The end of the supervisor is delayed by `CLOSE_WITHIN` at most. Without the section `tracing` none
of this is made. No span here has anything of a message in it.
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

log = logging.getLogger(__name__)

QUEUED: Final = 4096  # spans that wait to be sent: two seconds of a thousand requests each; 2 MB
BATCH: Final = 512  # spans of one request, as OpenTelemetry's SDK has it
SEND_EVERY: Final = 1.0  # seconds between two sendings
SEND_WITHIN: Final = 5.0  # seconds for one
CLOSE_WITHIN: Final = 1.0  # seconds for the last ones, when the supervisor ends
COMPLAIN_EVERY: Final = 60.0  # seconds between two log lines about an endpoint that takes nothing

CLIENT_LEFT: Final = 499
"""What nginx logs as the status of a request whose client left before there was one."""


class RequestTrace:
    """One request that is being answered. `headers` make its span the parent of the worker's."""

    def __init__(self, parent: Context | None, now: float) -> None:
        """`now`: of the loop's clock, from which the other times here are taken."""
        trace_id = parent.trace_id if parent is not None else f"{random.getrandbits(128) or 1:032x}"
        sampled, state = (parent.sampled, parent.state) if parent is not None else (True, "")
        self._parent_id: Final = parent.span_id if parent is not None else ""
        self._context: Final = Context(trace_id, _new_span_id(), sampled, state)
        self._began: Final = now
        self._began_ns: Final = time.time_ns()

    @property
    def headers(self) -> dict[str, str]:
        return self._context.headers()

    def over(self, now: float, status: int, failure: Failure | None, run: Run | None) -> list[Span]:
        """The spans of the request, which has ended. `run`: of the turn that it became, if it did."""
        if not self._context.sampled:
            return []
        attributes: dict[str, otlp.Value] = {
            "http.request.method": "POST",
            "http.route": "/invoke",
            "url.path": "/invoke",
            "http.response.status_code": status,
        }
        made: list[Span] = []
        if run is not None:
            failure = failure or run.failure
            attributes["agentscope.run_id"] = run.run_id
            if run.worker is not None:
                attributes["agentscope.worker"] = run.worker
            made.append(self._wait(run, now))
        if failure is not None:
            attributes["error.type"] = str(failure.code)
        elif status == CLIENT_LEFT:
            attributes["error.type"] = "client_left"
        # What the caller did wrong is no error of this server.
        error = str(failure.code) if failure is not None and failure.status >= 500 else None
        made.insert(
            0, self._span("POST /invoke", Kind.SERVER, self._context, self._began, now, attributes, error)
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
        """Nanoseconds since 1970, of a moment of the loop's clock."""
        return self._began_ns + round((moment - self._began) * 1e9)


class Tracing:
    """Makes and sends the spans of one instance. To be made on the event loop."""

    def __init__(self, endpoint: str, service: str) -> None:
        """`endpoint`: takes OTLP/HTTP. `service`: the instance's name in traces, unless the environment
        (OTEL_SERVICE_NAME) has one, as for the workers."""
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

    def request(self, headers: Mapping[str, str]) -> RequestTrace:
        """A request has come, with these headers (names in lower case, or case-insensitive)."""
        return RequestTrace(otlp.caller(headers), self._loop.time())

    def record(self, trace: RequestTrace, status: int, failure: Failure | None, run: Run | None) -> None:
        """A request is over: send its spans. The arguments are as in `RequestTrace.over`."""
        made = trace.over(self._loop.time(), status, failure, run)
        if len(self._queue) + len(made) > QUEUED:
            self._dropped += len(made)
            return
        self._queue.extend(made)
        if self._queue and self._sending is None:
            self._sending = self._loop.create_task(self._send_all())

    async def close(self) -> None:
        """Send what is left, within `CLOSE_WITHIN`."""
        self._closing.set()
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=CLOSE_WITHIN)
            if self._sending is not None:
                self._sending.cancel()
                log.warning("spans were left unsent", extra={"spans": len(self._queue)})
        if self._session is not None:
            await self._session.close()

    async def _send_all(self) -> None:
        """Empty the queue, a while after the first has come; in between more do."""
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
            # The environment's proxies and headers count here as they do for the workers' exporter.
            self._session = aiohttp.ClientSession(
                headers={"Content-Type": "application/json", **_headers_of_environment()},
                timeout=aiohttp.ClientTimeout(total=SEND_WITHIN),
                trust_env=True,
            )
        body = orjson.dumps(otlp.encode(batch, self._resource, __name__, __version__))
        try:
            async with self._session.post(self._endpoint, data=body) as response:
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
                "spans are lost: tracing.endpoint did not take them",
                extra={"reason": reason, "spans": self._dropped},
            )
            self._dropped = 0


def _new_span_id() -> str:
    return f"{random.getrandbits(64) or 1:016x}"


def _headers_of_environment() -> dict[str, str]:
    """OTEL_EXPORTER_OTLP_TRACES_HEADERS or OTEL_EXPORTER_OTLP_HEADERS: `name=value,name=value`, quoted as in
    a URL; a collector's key is usually there."""
    names = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
    text = next((os.environ[name] for name in names if os.environ.get(name)), "")
    pairs = (pair.partition("=") for pair in text.split(",") if "=" in pair)
    return {unquote(name).strip(): unquote(value).strip() for name, _, value in pairs}
