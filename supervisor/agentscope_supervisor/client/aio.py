"""`AsyncClient`: the client for asyncio, on aiohttp."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp

from agentscope_supervisor.client import calls, results
from agentscope_supervisor.client.blocking import (
    ANSWER_WITHIN,
    CONNECT_WITHIN,
    SILENCE,
    URL,
    Key,
    headers_of,
    key_of,
    reason_of,
)
from agentscope_supervisor.client.calls import Call, OnBusy
from agentscope_supervisor.client.results import Answer, Health, Message, Run, RunPage, Session
from agentscope_supervisor.client.turn import RETRIES, Attempts, Turn

_LOST: Final = (aiohttp.ClientError, OSError, TimeoutError)


class AsyncClient:
    """A client of one instance. Use it as an async context manager, or call `close`.

    Args:
        url: `http://host:port`, `https://…`, or `unix:` and the path of a socket.
        token: `server.auth_token`, or one of `auth.tokens`, if the instance has one.
        retries: Attempts in a row that may bring nothing, before a request fails.
        silence: Seconds without a byte after which a stream counts as cut. It must be more than
            `server.keepalive_interval` of the instance. None: no limit.
        headers: Sent with each request.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        token: str | None = None,
        retries: int = RETRIES,
        silence: float | None = SILENCE,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._socket: Final = url.removeprefix("unix:") if url.startswith("unix:") else None
        self._url: Final = "http://localhost" if self._socket is not None else url.rstrip("/")
        self._retries: Final = retries
        self._silence: Final = silence
        self._headers: Final = headers_of(token, headers)
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    # -- turns --------------------------------------------------------------------------------

    async def invoke(
        self,
        message: str | Mapping[str, Any],
        *,
        session_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        on_busy: OnBusy | None = None,
        idempotency_key: Key = None,
    ) -> Answer:
        """Run a turn and return its whole answer. Without `session_id`, in a new session.

        Raises: ApiError, ConnectionLost.
        """
        key = key_of(idempotency_key)
        call = calls.invocation(message, session_id, metadata, on_busy, key, stream=False)
        return results.answer_of(await self._json(call, None))

    def stream(
        self,
        message: str | Mapping[str, Any],
        *,
        session_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        on_busy: OnBusy | None = None,
        idempotency_key: Key = None,
    ) -> "AsyncStream":
        """Run a turn and iterate over its messages as they come. A cut connection is resumed, so that each
        message comes once. The turn begins with the iteration."""
        key = key_of(idempotency_key)
        call = calls.invocation(message, session_id, metadata, on_busy, key, stream=True)
        return AsyncStream(self, Turn(call, self._attempts(), session_id))

    def resume(self, run_id: str, *, session_id: str | None = None, after: int = -1) -> "AsyncStream":
        """Follow a run. `after`: the number of the last event that is known; -1: from its beginning.
        `session_id`: for balancers that pin sessions."""
        return AsyncStream(self, Turn(None, self._attempts(), session_id, run_id, after))

    async def stop(self, *, session_id: str | None = None, run_id: str | None = None) -> int:
        """End the turns of a session, or one run. Returns the number of turns that ended. Raises: ApiError,
        ConnectionLost."""
        stopped: int = (await self._json(calls.stop(session_id, run_id)))["stopped"]
        return stopped

    # -- runs and sessions --------------------------------------------------------------------

    async def run(self, run_id: str) -> Run:
        """The state of a run, with its messages. Raises: ApiError, ConnectionLost."""
        return results.run_of(await self._json(calls.run(run_id)))

    async def runs(
        self, session_id: str, *, state: str | None = None, limit: int | None = None, after: str | None = None
    ) -> RunPage:
        """A page of the runs of a session, the newest first. Raises: ApiError, ConnectionLost."""
        return results.page_of(await self._json(calls.runs(session_id, state, limit, after)))

    async def messages(
        self, session_id: str, *, limit: int | None = None, after: str | None = None
    ) -> RunPage:
        """A page of the runs of a session with their messages, the oldest first. Raises: ApiError,
        ConnectionLost."""
        return results.page_of(await self._json(calls.messages(session_id, limit, after)))

    async def session(self, session_id: str) -> Session:
        """The state of a session. Raises: ApiError, ConnectionLost."""
        return results.session_of(await self._json(calls.session(session_id)))

    async def delete_session(self, session_id: str, *, user_id: str | None = None) -> None:
        """Delete the state and the runs of a session. Raises: ApiError, ConnectionLost."""
        await self._json(calls.delete_session(session_id, user_id))

    async def health(self) -> Health:
        """The state of the instance. Raises: ConnectionLost."""
        status, _, body = await self._ask(calls.HEALTH, ANSWER_WITHIN, self._attempts())
        return results.health_of(calls.read_object(body), status)

    # -- requests -----------------------------------------------------------------------------

    def _attempts(self) -> Attempts:
        return Attempts(self._retries, random.random)

    async def _json(self, call: Call, within: float | None = ANSWER_WITHIN) -> dict[str, Any]:
        attempts = self._attempts()
        while True:
            status, headers, body = await self._ask(call, within, attempts)
            if status < 400:
                return calls.read_object(body)
            await asyncio.sleep(attempts.refused(call, calls.read_error(status, headers, body)))

    async def _ask(
        self, call: Call, within: float | None, attempts: Attempts
    ) -> tuple[int, Mapping[str, str], bytes]:
        """The status, headers and body of a response. Raises: ConnectionLost."""
        while True:
            try:
                async with self._open(call, within) as response:
                    return response.status, _lower(response), await response.read()
            except _LOST as error:
                delay = attempts.lost(call, reason_of(error))
            await asyncio.sleep(delay)

    @asynccontextmanager
    async def _open(self, call: Call, silence: float | None) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request. Raises: one of _LOST."""
        if self._http is None:
            connector = aiohttp.UnixConnector(self._socket) if self._socket is not None else None
            self._http = aiohttp.ClientSession(connector=connector)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_WITHIN, sock_read=silence)
        async with self._http.request(
            call.method,
            self._url + call.path,
            data=call.body,
            headers={**self._headers, **call.headers},
            timeout=timeout,
            allow_redirects=False,
        ) as response:
            yield response


class AsyncStream:
    """The messages of one turn. Iterate over it once. `close` and leaving `async with` end it early.

    A turn that is left runs on for up to 10 s, in which its client may come back, and is then cancelled,
    unless the instance has `sessions.on_disconnect: continue`. `AsyncClient.stop` ends it at once.
    """

    def __init__(self, client: AsyncClient, turn: Turn) -> None:
        self._client: Final = client
        self._turn: Final = turn
        self._messages: Final = self._follow()

    @property
    def run_id(self) -> str | None:
        """The id of the run; None: its response has not begun."""
        return self._turn.run_id

    @property
    def session_id(self) -> str | None:
        """The id of the session. None: the response has not begun, or the run was resumed."""
        return self._turn.session_id

    @property
    def last(self) -> int:
        """The number of the last event that came; -1: none. Pass it to `AsyncClient.resume` as `after`."""
        return self._turn.last

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the done event; empty until the turn has ended."""
        return self._turn.metadata

    @property
    def usage(self) -> Mapping[str, Any] | None:
        """The tokens of the turn; None: it has not ended, or no model reported them."""
        usage: Mapping[str, Any] | None = self._turn.metadata.get("usage")
        return usage

    def __aiter__(self) -> AsyncIterator[Message]:
        """The messages. Raises: ApiError, ConnectionLost."""
        return self._messages

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._messages.aclose()

    async def _follow(self) -> AsyncGenerator[Message, None]:
        turn, client = self._turn, self._client
        while not turn.is_over:
            delay = 0.0
            try:
                async with client._open(turn.request, client._silence) as response:
                    if response.status >= 400:
                        delay = turn.refused(response.status, _lower(response), await response.read())
                    else:
                        turn.begun(response.status, _lower(response))
                        async for data in response.content.iter_any():
                            for message in turn.feed(data):
                                yield message
                            if turn.is_over:
                                break
                        if not turn.is_over:
                            delay = turn.lost("the stream ended before the turn")
            except _LOST as error:
                delay = turn.lost(reason_of(error))
            if delay:
                await asyncio.sleep(delay)
        if turn.failure is not None:
            raise turn.failure


def _lower(response: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}
