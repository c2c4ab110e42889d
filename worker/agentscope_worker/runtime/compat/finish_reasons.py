"""Outcomes of model calls: whether the stream of a response was closed before its end, and the tokens used.

Every provider ends a stream with a finish reason. The client libraries treat a stream that closes without one
as complete. Owns the detection in the streams of the client libraries, the mark in the last ChatResponse, and
the outcome of the last model call for a reply and for a turn. It must not use AgentScope's classes.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Any, Final

from agentscope_worker.runtime.compat import usage
from agentscope_worker.runtime.compat.usage import Tally

log = logging.getLogger(__name__)

KEY: Final = "finish_reason"  # in the metadata of messages, responses and the done event
TRUNCATED: Final = "TRUNCATED"

Finishes = Callable[[Any], bool]
"""Whether an item of a client library's stream has the finish reason."""


class Outcome:
    """The finish reason of the last model call, None if its response is complete; and the usage of all of
    them."""

    __slots__ = ("reason", "usage")

    def __init__(self) -> None:
        self.reason: str | None = None
        self.usage: Final = Tally()

    @property
    def metadata(self) -> dict[str, Any]:
        """The members of the done event's metadata; empty: there is nothing to report."""
        found: dict[str, Any] = {KEY: self.reason} if self.reason is not None else {}
        used = self.usage.report()
        return {**found, usage.KEY: used} if used is not None else found

    def mark(self, holder: Any) -> Any:
        """Add the reason to the metadata of a message or a response, and return it."""
        if self.reason is not None and holder is not None:
            holder.metadata = {**(holder.metadata or {}), KEY: self.reason}
        return holder


_observed: contextvars.ContextVar[tuple[Outcome, ...]] = contextvars.ContextVar(
    "agentscope_runtime_outcomes", default=()
)
_call: contextvars.ContextVar[Outcome | None] = contextvars.ContextVar(
    "agentscope_runtime_model_call", default=None
)


@contextlib.contextmanager
def observed() -> Iterator[Outcome]:
    """The outcome of the last model call in the block and in tasks created there.

    Use it in a coroutine, never around a `yield`: it changes the current context.
    """
    outcome = Outcome()
    token = _observed.set((*_observed.get(), outcome))
    try:
        yield outcome
    finally:
        _observed.reset(token)


def with_mark(call: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the call of a model: the last response of a truncated stream has the mark in its metadata."""

    @functools.wraps(call)
    async def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        outcome = Outcome()
        token = _call.set(outcome)
        try:
            response = await call(self, *args, **kwargs)
        finally:
            _call.reset(token)
        if isinstance(response, AsyncGenerator):
            return _marked(response, outcome, _name(self))
        _note(None)
        _count(_name(self), response)
        return response

    return __call__


def with_count(call: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method of a model that calls the provider by another way, and returns one response."""

    @functools.wraps(call)
    async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        response = await call(self, *args, **kwargs)
        _count(_name(self), response)
        return response

    return counted


async def _marked(
    responses: AsyncGenerator[Any, None], outcome: Outcome, model: str
) -> AsyncGenerator[Any, None]:
    last = None
    try:
        async with contextlib.aclosing(responses):
            async for last in responses:
                outcome.mark(last)  # on 2.x, the last response comes after the end of the provider's stream
                yield last
    finally:  # a stream that is left early was paid for too, as far as its usage is known
        _count(model, last)
    outcome.mark(last)


def with_watch(parse: Callable[..., Any], finishes: Finishes) -> Callable[..., Any]:
    """Wrap the method of a model that converts a client library's stream: `parse(self, start, stream, …)`."""

    # Not a generator: the body has to run during the call of the model.
    @functools.wraps(parse)
    def watch(self: Any, start: Any, stream: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(stream, "__aiter__") or hasattr(stream, "__aenter__"):
            stream = _Watched(stream, finishes, _call.get() or Outcome(), _name(self))
        return parse(self, start, stream, *args, **kwargs)

    return watch


class _Watched:
    """A client library's stream, whose end is noted."""

    def __init__(self, stream: Any, finishes: Finishes, outcome: Outcome, model: str) -> None:
        self._context = stream  # entered, it may return another object: the stream itself
        self._stream = stream
        self._finishes = finishes
        self._outcome = outcome
        self._model = model
        self._has_finished = False
        self._items: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def __aenter__(self) -> _Watched:
        self._stream = await self._context.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._context.__aexit__(*error)

    def __aiter__(self) -> _Watched:
        self._items = aiter(self._stream)
        return self

    async def __anext__(self) -> Any:
        try:
            item = await anext(self._items)
        except StopAsyncIteration:
            self._end()
            raise
        if not self._has_finished:
            self._has_finished = self._finishes(item)
        return item

    def _end(self) -> None:
        if not self._has_finished:
            log.warning("the stream of model %s was closed without a finish reason", self._model)
            self._outcome.reason = TRUNCATED
        _note(self._outcome.reason)


def _note(reason: str | None) -> None:
    for outcome in _observed.get():
        outcome.reason = reason


def _count(model: str, response: Any) -> None:
    """Count a call. `response`: the last one, which has the usage of the whole call; or None."""
    used = getattr(response, "usage", None)
    if used is not None:
        for outcome in _observed.get():
            outcome.usage.add(model, used)


def _name(model: Any) -> str:
    return str(getattr(model, "model", None) or getattr(model, "model_name", ""))


# -- the wire formats ---------------------------------------------------------------------------------


def _openai(item: Any) -> bool:
    chunk = getattr(item, "chunk", item)  # with a structured output, OpenAI's client yields events
    return any(choice.finish_reason for choice in getattr(chunk, "choices", None) or ())


def _openai_response(item: Any) -> bool:
    return item.type in ("response.completed", "response.incomplete", "response.failed")


def _anthropic(item: Any) -> bool:
    return item.type == "message_stop" or bool(item.type == "message_delta" and item.delta.stop_reason)


def _dashscope(item: Any) -> bool:
    choices = (item.output or {}).get("choices") or ()
    return any(choice.get("finish_reason") not in (None, "", "null") for choice in choices)


def _gemini(item: Any) -> bool:
    blocked = getattr(item.prompt_feedback, "block_reason", None)
    return bool(blocked) or any(each.finish_reason for each in item.candidates or ())


def _ollama(item: Any) -> bool:
    return bool(item.done)


FINISHES: Final[Mapping[str, Finishes]] = {
    "openai": _openai,
    "openai_response": _openai_response,
    "anthropic": _anthropic,
    "dashscope": _dashscope,
    "gemini": _gemini,
    "ollama": _ollama,
}
"""By the wire format of the client library."""
