"""`Client`: the client for ordinary code, on the HTTP client of the standard library.

Each request has a connection of its own, so that threads can share a client.
"""

import http.client
import random
import socket
import time
import uuid
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from agentscope_supervisor.client import calls, results
from agentscope_supervisor.client.calls import Call, OnBusy
from agentscope_supervisor.client.errors import ClientError
from agentscope_supervisor.client.results import Answer, Health, Message, Run, RunPage, Session
from agentscope_supervisor.client.turn import RETRIES, Attempts, Turn

URL: Final = "http://127.0.0.1:8080"
CONNECT_WITHIN: Final = 10.0  # seconds
SILENCE: Final = 60.0  # default seconds without a byte after which a stream counts as cut
ANSWER_WITHIN: Final = 30.0  # seconds for the answer to a request that is no turn
READ: Final = 64 * 1024  # bytes at once

Key = str | Literal[False] | None
"""An Idempotency-Key. None: the client makes one. False: the request has none, and is never sent twice."""


def key_of(key: Key) -> str | None:
    """The value of the header Idempotency-Key."""
    return (uuid.uuid4().hex if key is None else key) or None


class Client:
    """A client of one instance.

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
        self._url: Final = url
        self._retries: Final = retries
        self._silence: Final = silence
        self._headers: Final = headers_of(token, headers)

    # -- turns --------------------------------------------------------------------------------

    def invoke(
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
        return results.answer_of(self._json(call, None))

    def stream(
        self,
        message: str | Mapping[str, Any],
        *,
        session_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        on_busy: OnBusy | None = None,
        idempotency_key: Key = None,
    ) -> "Stream":
        """Run a turn and iterate over its messages as they come. A cut connection is resumed, so that each
        message comes once. The turn begins with the iteration."""
        key = key_of(idempotency_key)
        call = calls.invocation(message, session_id, metadata, on_busy, key, stream=True)
        return Stream(self, Turn(call, self._attempts(), session_id))

    def resume(self, run_id: str, *, session_id: str | None = None, after: int = -1) -> "Stream":
        """Follow a run. `after`: the number of the last event that is known; -1: from its beginning.
        `session_id`: for balancers that pin sessions."""
        return Stream(self, Turn(None, self._attempts(), session_id, run_id, after))

    def stop(self, *, session_id: str | None = None, run_id: str | None = None) -> int:
        """End the turns of a session, or one run. Returns the number of turns that ended. Raises: ApiError,
        ConnectionLost."""
        stopped: int = self._json(calls.stop(session_id, run_id))["stopped"]
        return stopped

    # -- runs and sessions --------------------------------------------------------------------

    def run(self, run_id: str) -> Run:
        """The state of a run, with its messages. Raises: ApiError, ConnectionLost."""
        return results.run_of(self._json(calls.run(run_id)))

    def runs(
        self, session_id: str, *, state: str | None = None, limit: int | None = None, after: str | None = None
    ) -> RunPage:
        """A page of the runs of a session, the newest first. Raises: ApiError, ConnectionLost."""
        return results.page_of(self._json(calls.runs(session_id, state, limit, after)))

    def messages(self, session_id: str, *, limit: int | None = None, after: str | None = None) -> RunPage:
        """A page of the runs of a session with their messages, the oldest first. Raises: ApiError,
        ConnectionLost."""
        return results.page_of(self._json(calls.messages(session_id, limit, after)))

    def session(self, session_id: str) -> Session:
        """The state of a session. Raises: ApiError, ConnectionLost."""
        return results.session_of(self._json(calls.session(session_id)))

    def delete_session(self, session_id: str, *, user_id: str | None = None) -> None:
        """Delete the state and the runs of a session. Raises: ApiError, ConnectionLost."""
        self._json(calls.delete_session(session_id, user_id))

    def health(self) -> Health:
        """The state of the instance. Raises: ConnectionLost."""
        status, _, body = self._ask(calls.HEALTH, ANSWER_WITHIN, self._attempts())
        return results.health_of(calls.read_object(body), status)

    # -- requests -----------------------------------------------------------------------------

    def _attempts(self) -> Attempts:
        return Attempts(self._retries, random.random)

    def _json(self, call: Call, within: float | None = ANSWER_WITHIN) -> dict[str, Any]:
        attempts = self._attempts()
        while True:
            status, headers, body = self._ask(call, within, attempts)
            if status < 400:
                return calls.read_object(body)
            time.sleep(attempts.refused(call, calls.read_error(status, headers, body)))

    def _ask(
        self, call: Call, within: float | None, attempts: Attempts
    ) -> tuple[int, Mapping[str, str], bytes]:
        """The status, headers and body of a response. Raises: ConnectionLost."""
        while True:
            try:
                connection, response = self._open(call, within)
                try:
                    return response.status, _lower(response), response.read()
                finally:
                    response.close()
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                delay = attempts.lost(call, reason_of(error))
            time.sleep(delay)

    def _open(
        self, call: Call, silence: float | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a request. Raises: OSError, http.client.HTTPException."""
        connection = _connection(self._url)
        try:
            connection.connect()
            connection.sock.settimeout(silence)
            connection.request(call.method, call.path, call.body, {**self._headers, **call.headers})
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise


class Stream:
    """The messages of one turn. Iterate over it once. `close`, or leaving a `with` block, ends it early.

    A turn that is left runs on for up to 10 s, in which its client may come back, and is then cancelled,
    unless the instance has `sessions.on_disconnect: continue`. `Client.stop` ends it at once.
    """

    def __init__(self, client: Client, turn: Turn) -> None:
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
        """The number of the last event that came; -1: none. Pass it to `Client.resume` as `after`."""
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

    def __iter__(self) -> Iterator[Message]:
        """The messages. Raises: ApiError, ConnectionLost."""
        return self._messages

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._messages.close()

    def _follow(self) -> Generator[Message, None, None]:
        turn = self._turn
        while not turn.is_over:
            delay = 0.0
            try:
                connection, response = self._client._open(turn.request, self._client._silence)
                try:
                    if response.status >= 400:
                        delay = turn.refused(response.status, _lower(response), response.read())
                    else:
                        turn.begun(response.status, _lower(response))
                        while not turn.is_over and (data := response.read1(READ)):
                            yield from turn.feed(data)
                        if not turn.is_over:
                            delay = turn.lost("the stream ended before the turn")
                finally:
                    response.close()
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                delay = turn.lost(reason_of(error))
            if delay:
                time.sleep(delay)
        if turn.failure is not None:
            raise turn.failure


def headers_of(token: str | None, more: Mapping[str, str] | None) -> dict[str, str]:
    """The headers of each request."""
    return {**({"Authorization": f"Bearer {token}"} if token is not None else {}), **(more or {})}


def reason_of(error: Exception) -> str:
    """Why a connection failed."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a socket in the file system."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CONNECT_WITHIN)
        self._path: Final = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_WITHIN)
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


def _connection(url: str) -> http.client.HTTPConnection:
    if url.startswith("unix:"):
        return _UnixConnection(url.removeprefix("unix:"))
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        raise ClientError(f"{url!r} is no URL of an instance, such as {URL}")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname, parts.port, timeout=CONNECT_WITHIN)


def _lower(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}
