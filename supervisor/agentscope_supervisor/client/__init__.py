"""A client of running instances: `Client` for ordinary code, `AsyncClient` for asyncio.

    from agentscope_supervisor.client import Client

    client = Client("http://127.0.0.1:8080")
    for message in client.stream("Hello", session_id="me"):
        print(message.text, end="")

It may be imported by any program: it needs nothing of the daemon, and only `AsyncClient` loads aiohttp.

Where to read next: `turn` decides what follows a cut connection; `blocking` and `aio` do the I/O.
"""

from typing import TYPE_CHECKING, Any, Final

from agentscope_supervisor.client.blocking import Client, Stream
from agentscope_supervisor.client.errors import (
    CLASSES,
    ApiError,
    AppError,
    ClientError,
    ConnectionLost,
    Draining,
    Forbidden,
    Gone,
    IdempotencyMismatch,
    InternalError,
    Interrupted,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    NotReady,
    Overloaded,
    PayloadTooLarge,
    Poisoned,
    RequestTimeout,
    SessionBusy,
    Superseded,
    TooManyRequests,
    TurnTimeout,
    Unauthorized,
    UnsupportedMediaType,
    WorkerLost,
)
from agentscope_supervisor.client.results import Answer, Health, Message, Run, RunPage, Session

if TYPE_CHECKING:
    from agentscope_supervisor.client.aio import AsyncClient, AsyncStream

_LATER: Final = ("AsyncClient", "AsyncStream")  # they load aiohttp

__all__ = [
    "CLASSES",
    "Answer",
    "ApiError",
    "AppError",
    "AsyncClient",
    "AsyncStream",
    "Client",
    "ClientError",
    "ConnectionLost",
    "Draining",
    "Forbidden",
    "Gone",
    "Health",
    "IdempotencyMismatch",
    "InternalError",
    "Interrupted",
    "InvalidRequest",
    "Message",
    "MethodNotAllowed",
    "NotFound",
    "NotReady",
    "Overloaded",
    "PayloadTooLarge",
    "Poisoned",
    "RequestTimeout",
    "Run",
    "RunPage",
    "Session",
    "SessionBusy",
    "Stream",
    "Superseded",
    "TooManyRequests",
    "TurnTimeout",
    "Unauthorized",
    "UnsupportedMediaType",
    "WorkerLost",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agentscope_supervisor.client import aio

    return getattr(aio, name)
