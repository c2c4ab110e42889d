"""`runtime.models`: the configured model slots, and what a slot adds to AgentScope's model.

Owns the lookup by name and the facade of one model. It must not know a provider or a major of AgentScope;
`compat.majors` does. AgentScope has to accept a slot as the model itself everywhere (isinstance, attributes,
assignment of `stream`), so the facade changes only the documented differences: a slot accepts Msg on 1.x too,
and `slot.stream(...)` works beside `if slot.stream:`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from agentscope_protocol.config.settings import ModelSettings
from agentscope_worker.runtime import tracing
from agentscope_worker.runtime.boot_error import BootError, is_missing, pip_install
from agentscope_worker.runtime.compat import finish_reasons, providers
from agentscope_worker.runtime.compat.majors import seam
from agentscope_worker.runtime.models import light_stream

# Import name of a client library -> its package. AgentScope 2.x asks DashScope through OpenAI's client.
_CLIENT_PACKAGES = {
    "anthropic": "anthropic",
    "dashscope": "dashscope",
    "google": "google-genai",
    "google.genai": "google-genai",
    "ollama": "ollama",
    "openai": "openai",
}


class Models(Mapping[str, Any]):
    """The configured models: `models.main`, `models["main"]`, `keys()`, `in`, `len`.

    Raises:
        AttributeError: No model has this attribute's name. The message lists the configured names.
        KeyError: No model has this key. The message lists the configured names.
    """

    def __init__(self, slots: Mapping[str, Slot]) -> None:
        self._slots = dict(slots)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._slots[name]
        except KeyError:
            raise AttributeError(self._missing(name)) from None

    def __getitem__(self, name: str) -> Any:
        try:
            return self._slots[name]
        except KeyError:
            raise KeyError(self._missing(name)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._slots]

    def _missing(self, name: str) -> str:
        configured = ", ".join(self._slots) or "none"
        return f"no model slot {name!r} in agentapp.yaml under models; configured: {configured}"


def build_models(settings: Mapping[str, ModelSettings]) -> Models:
    """The slots of `models` in agentapp.yaml. Opens no connection.

    Raises: BootError that names the key, for a missing client library or rejected settings.
    """
    return Models({name: Slot(_build(name, each)) for name, each in settings.items()})


def _build(name: str, settings: ModelSettings) -> Any:
    try:
        model = seam().make_model(settings)
    except ImportError as error:
        if is_missing(error, *_CLIENT_PACKAGES):
            package = _CLIENT_PACKAGES[str(error.name)]
            problem = (
                f"provider {settings.provider} needs the package {package}, which is not installed: {error}. "
                f"To install it, run: {pip_install(package)}"
            )
        else:
            problem = f"the {settings.provider} model cannot be created: {type(error).__name__}: {error}"
        raise BootError(f"models.{name}: {problem}", permanent=True) from error
    except Exception as error:  # a provider's client may reject its arguments with any exception
        raise BootError(
            f"models.{name}: the {settings.provider} model cannot be created from these settings: "
            f"{_reason(error)}",
            permanent=True,
        ) from error
    light_stream.lighten(model, name, settings)
    return model


def _reason(error: Exception) -> str:
    """The text of `error`, without the values that pydantic includes: one may be a secret."""
    if not isinstance(error, ValidationError):
        return str(error)
    problems = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in problems)


async def close_models(models: Models) -> None:
    """Close the connections of all slots whose clients support it."""
    for slot in models.values():
        await providers.close(slot)


class Chunk:
    """One piece of a streamed answer. Other attributes are those of the ChatResponse.

    Attributes:
        text: The new text only.
        raw: The ChatResponse of AgentScope.
    """

    __slots__ = ("raw", "text")

    def __init__(self, text: str, raw: Any) -> None:
        self.text = text
        self.raw = raw

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(self.raw, name)
        except KeyError:  # a 1.x response raises it for an unknown attribute
            raise AttributeError(name) from None

    def __repr__(self) -> str:
        return f"Chunk(text={self.text!r})"


class Slot:
    """One configured model. It passes for the AgentScope model object, for example in `isinstance`.

    In addition, its calls accept Msg on AgentScope 1.x and 2.x, and `stream` is a method as well as a flag.
    """

    _model: Any

    def __init__(self, model: Any) -> None:
        self.__dict__["_model"] = model

    @property  # type: ignore[misc]  # isinstance reads __class__, and so do pydantic's checks
    def __class__(self) -> type[Any]:
        return type(self._model)

    if not TYPE_CHECKING:  # for type checkers, the generated stubs derive slots from the model's class

        def __getattr__(self, name: str) -> Any:
            return getattr(self.__dict__["_model"], name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._model, name, bool(value) if name == "stream" else value)

    def __copy__(self) -> Slot:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Slot:
        return self  # a connection pool cannot be copied, but an agent that holds it may be

    def __repr__(self) -> str:
        return f"<model slot: {type(self._model).__name__}>"

    @property
    def stream(self) -> _Stream:
        """The flag `stream` of the AgentScope model, which can also be called as a method."""
        return _Stream(self, bool(self._model.stream))

    async def __call__(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the model. Further arguments, such as `tools`, are those of the AgentScope model.

        Args:
            messages: A list of Msg, or one Msg. On 1.x also messages in the provider's format.

        Returns:
            A ChatResponse; an async generator of ChatResponse if `stream` is true for this model.
        """
        cancels = _cancels()
        prompt = await seam().prompt(self._model, messages)
        response = await tracing.model_call(self._model, lambda: self._model(prompt, *args, **kwargs))
        _raise_if_cancelled(cancels)
        return response if not isinstance(response, AsyncGenerator) else await _started(response)


class _Stream:
    """The value of a slot's `stream`: as true as the flag was when it was read, and callable.

    It stores the flag and not the model: AgentScope 1.x saves the value, assigns False and restores it.
    """

    __slots__ = ("_on", "_slot")

    def __init__(self, slot: Slot, on: bool) -> None:
        self._slot = slot
        self._on = on

    def __bool__(self) -> bool:
        return self._on

    def __eq__(self, other: object) -> bool:
        return bool(other) == self._on if isinstance(other, bool | _Stream) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._on)

    def __repr__(self) -> str:
        return repr(self._on)

    async def __call__(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Chunk]:
        """Call the model and yield a chunk for each new piece of text. Arguments are those of a call.

        Yields:
            A Chunk for each new piece of text. A model that does not stream yields one chunk. If the
            response contains more than text, such as tool calls, or was truncated
            (`chunk.metadata["finish_reason"]` is "TRUNCATED"), the last chunk has the whole response and an
            empty `text`.
        """
        cancels = _cancels()
        compat = seam()
        response = await self._slot(messages, *args, **kwargs)
        if not isinstance(response, AsyncGenerator):
            yield Chunk(compat.text_of(response), response)
            return
        seen, last = "", None
        async with contextlib.aclosing(response) as responses:
            async for last in responses:
                text = compat.new_text(last, seen)
                if text:
                    seen += text
                    yield Chunk(text, last)
        _raise_if_cancelled(cancels)
        if last is not None and (
            compat.holds_more_than_text(last) or finish_reasons.KEY in (last.metadata or ())
        ):
            yield Chunk("", last)


async def _started(responses: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    """`responses`, with the first item already fetched.

    An async generator that was never started is never finalized, so that an abandoned response would keep its
    connection; a started generator is closed when it is dropped.
    """
    nothing = object()
    first = await anext(responses, nothing)

    async def all_of_them() -> AsyncGenerator[Any, None]:
        async with contextlib.aclosing(responses):
            if first is not nothing:
                yield first
            async for each in responses:
                yield each

    return all_of_them()


def _cancels() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def _raise_if_cancelled(before: int) -> None:
    """Raise a cancellation again that AgentScope 2.x has swallowed since `before` was counted."""
    if _cancels() > before:
        raise asyncio.CancelledError
