"""The runner: calls the handlers of an AgentApp, and turns the stream of the query handler into events."""

from __future__ import annotations

import asyncio
import inspect
import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Self

from agentscope_worker.agentapp.events import EventStream
from agentscope_worker.agentapp.exceptions import AppBaseException, UnknownAgentException
from agentscope_worker.agentapp.inputs import messages_of
from agentscope_worker.agentapp.running import throw_into
from agentscope_worker.agentapp.schemas import AgentRequest, AgentResponse, Event
from agentscope_worker.agentapp.sources import source_of

if TYPE_CHECKING:
    from agentscope_worker.agentapp.deployers import DeployManager

log = logging.getLogger(__name__)

FRAMEWORKS: Final = ("agentscope", "autogen", "agno", "langgraph")
"""Of `@app.query`."""

ALLOWED_FRAMEWORK_TYPES: Final = ["text", *FRAMEWORKS]
"""Of `framework_type`."""

_NO_MORE: Final = object()


class Runner:
    """The object that a query handler gets as `self`. A project may derive from it, and define handlers."""

    framework_type: str | None = None

    def __init__(self) -> None:
        self.in_type_converters: dict[str, Callable[..., Any]] | None = None
        self.out_type_converters: dict[str, Callable[..., Any]] | None = None
        self._health = False

    async def query_handler(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("query_handler not implemented")

    async def init_handler(self, *args: Any, **kwargs: Any) -> Any: ...

    async def shutdown_handler(self, *args: Any, **kwargs: Any) -> Any: ...

    async def start(self) -> Self:
        await awaited(self.init_handler())
        self._health = True
        return self

    async def stop(self) -> None:
        self._health = False
        await awaited(self.shutdown_handler())

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    async def deploy(self, deploy_manager: DeployManager, **kwargs: Any) -> Any:
        return await deploy_manager.deploy(runner=self, **kwargs)

    async def query(self, request: AgentRequest | Mapping[str, Any], **kwargs: Any) -> AgentResponse:
        """The last event of the stream: the whole response."""
        last: Any = None
        async for event in self.stream_query(request, **kwargs):
            last = event
        assert isinstance(last, AgentResponse)
        return last

    def stream_query(
        self, request: AgentRequest | Mapping[str, Any], **kwargs: Any
    ) -> AsyncGenerator[Event, None]:
        """The events of the answer to a request; `kwargs` are passed to the query handler.

        Raises: RuntimeError before `start`; pydantic.ValidationError for an invalid request.
        """
        if self.framework_type not in ALLOWED_FRAMEWORK_TYPES:
            allowed = ", ".join(ALLOWED_FRAMEWORK_TYPES)
            raise RuntimeError(f"framework_type is {self.framework_type!r}; set it to one of: {allowed}")
        if not self._health:
            raise RuntimeError(
                "the runner has not been started; use it as `async with runner`, or call "
                "`await runner.start()`"
            )
        if not isinstance(request, AgentRequest):
            request = AgentRequest(**request)
        request.session_id = request.session_id or str(uuid.uuid4())
        request.user_id = request.user_id or request.session_id
        response = AgentResponse(id=request.id, session_id=request.session_id)
        return self._events(request, EventStream(response), self.framework_type, kwargs)

    async def _events(
        self, request: AgentRequest, events: EventStream, framework: str, more: dict[str, Any]
    ) -> AsyncGenerator[Event, None]:
        for event in events.begin():
            yield event
        stream: AsyncGenerator[Any, None] | None = None
        try:
            source = source_of(framework)
            more = {"request": request, "response": events.response, **more}
            if takes(self.query_handler, "msgs"):
                more["msgs"] = messages_of(framework, request.input, self.in_type_converters)
            stream = items_of(await result_of(self.query_handler, more))
            async for item in stream:
                for part in [item] if isinstance(item, Event) else source.take(item):
                    for event in events.take(part):
                        yield event
        except asyncio.CancelledError as error:
            # The handler is suspended where it has yielded, and must see the same exception.
            if stream is not None:
                await throw_into(stream, error)
            raise
        except Exception as error:
            log.exception("the query handler raised")
            known = error if isinstance(error, AppBaseException) else UnknownAgentException(error)
            for event in events.fail(known.code, known.message):
                yield event
        else:
            for event in events.end():
                yield event
        finally:
            if stream is not None:
                await stream.aclose()


async def result_of(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """The result of a function, whatever kind of function it is; for one that yields, its generator.

    Only arguments that the function takes are passed. Functions that are not async run in a thread.
    """
    call = _bound(function, arguments)
    if inspect.isasyncgenfunction(function) or inspect.iscoroutinefunction(function):
        result = call()
    else:
        result = await asyncio.to_thread(call)
    return await awaited(result)


async def items_of(result: Any) -> AsyncGenerator[Any, None]:
    """The items of a generator of either kind; any other result is the only item."""
    if inspect.isasyncgen(result):
        stream: AsyncGenerator[Any, Any] = result
        try:
            async for item in stream:
                yield item
        except asyncio.CancelledError as error:
            await throw_into(stream, error)
            raise
        finally:
            await stream.aclose()
    elif inspect.isgenerator(result):
        while (item := await asyncio.to_thread(next, result, _NO_MORE)) is not _NO_MORE:
            yield item
    else:
        yield result


def is_generator(result: object) -> bool:
    return inspect.isasyncgen(result) or inspect.isgenerator(result)


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function can be called with an argument of this name."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _bound(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Callable[[], Any]:
    taken = {name: value for name, value in arguments.items() if takes(function, name)}
    return lambda: function(**taken)


async def awaited(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result
