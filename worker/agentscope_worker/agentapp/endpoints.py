"""`@app.endpoint`: a route from any kind of function; what a generator yields is streamed."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse, StreamingResponse

from agentscope_worker.agentapp.runner import is_generator, items_of, result_of
from agentscope_worker.agentapp.tasks import plain, server_sent

log = logging.getLogger(__name__)


def endpoint_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that FastAPI calls, with the same parameters."""

    async def endpoint(**arguments: Any) -> Any:
        result = await result_of(function, arguments)
        if is_generator(result):
            return StreamingResponse(_events(result), media_type="text/event-stream")
        return result if isinstance(result, Response) else JSONResponse(_encoded(result))

    # Not functools.wraps: FastAPI would look at the generator function behind `__wrapped__`.
    endpoint.__name__ = getattr(function, "__name__", endpoint.__name__)
    endpoint.__doc__ = function.__doc__
    endpoint.__module__ = function.__module__
    signature = signature_of(function)
    endpoint.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[each.replace(kind=each.KEYWORD_ONLY) for each in signature.parameters.values()],
        return_annotation=inspect.Signature.empty,
    )
    return endpoint


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The signature, with annotations resolved where the function is defined, if they can be."""
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:
        return inspect.signature(function)


async def _events(generator: Any) -> AsyncIterator[str]:
    try:
        async for item in items_of(generator):
            yield server_sent(item)
    except Exception as error:
        log.exception("an endpoint raised while it streamed")
        kind = type(error).__name__
        yield server_sent(
            {"error": str(error), "error_type": kind, "message": "Error in streaming generator"}
        )


def _encoded(result: Any) -> Any:
    try:
        return jsonable_encoder(result)
    except (TypeError, ValueError):  # of a type that FastAPI does not know
        return plain(result)
