"""The implementation of `majors.AgentScope` for AgentScope 1.x.

Owns the patches of 1.x classes and every use of 1.x names. It must be imported only through `majors.seam`,
which checks the installation first; 2.x must not need anything here. Each patch is documented at the function
that makes it.
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
import functools
import inspect
import os
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import agentscope
from agentscope import formatter as formatters
from agentscope import message as blocks
from agentscope import model as models
from agentscope.agent import AgentBase, ReActAgent
from agentscope.mcp import MCPClientBase, MCPToolFunction
from agentscope.message import Msg
from agentscope.tool import Toolkit, ToolResponse

from agentscope_worker.runtime import lossy_json
from agentscope_worker.runtime.compat import finish_reasons, model_calls1, providers
from agentscope_worker.runtime.compat.agents import Put, exclusive, mark_interrupted, relay
from agentscope_worker.runtime.mcp import results

if TYPE_CHECKING:
    from agentscope_protocol.config.settings import ModelSettings
    from agentscope_worker.runtime.mcp.tools import Offer

MAJOR = 1

_CLASSES = {
    "openai": models.OpenAIChatModel,
    "anthropic": models.AnthropicChatModel,
    "dashscope": models.DashScopeChatModel,
    "gemini": models.GeminiChatModel,
    "ollama": models.OllamaChatModel,
}
_BLOCKS = {
    "text": blocks.TextBlock,
    "thinking": blocks.ThinkingBlock,
    "tool_use": blocks.ToolUseBlock,
    "tool_result": blocks.ToolResultBlock,
    "image": blocks.ImageBlock,
    "audio": blocks.AudioBlock,
    "video": blocks.VideoBlock,
}
_DELTA_FIELDS = {"text": "text", "thinking": "thinking"}  # type of a streamed block -> its growing field

# The toolkits made by `new_toolkit`, for `runtime.tools`. An agent that is given one works on a clone.
_shared_toolkits: weakref.WeakSet[Any] = weakref.WeakSet()


def message_class() -> Any:
    return Msg


def block_classes() -> Mapping[str, Any]:
    return _BLOCKS


def plain_fields(msg: Any) -> dict[str, Any]:
    fields: dict[str, Any] = msg.to_dict()
    del fields["metadata"]
    return fields


def encode(msg: Any) -> bytes:
    return lossy_json.dumps(plain_fields(msg))


# --- models ---------------------------------------------------------------------------------------


def make_model(settings: ModelSettings) -> Any:
    provider, url = settings.provider, settings.base_url
    arguments: dict[str, Any] = {}
    if provider == "dashscope":
        generate = providers.dashscope_native(settings)
    else:
        generate = providers.request_arguments(settings, settings.generate_kwargs)
        arguments["client_kwargs"] = client = providers.client_arguments(settings)
        if provider == "openai" and "organization" in client:  # an argument of the model itself
            arguments["organization"] = client.pop("organization")
        if provider in ("openai", "anthropic") and url:
            client["base_url"] = url
    if provider == "ollama":
        arguments["host"] = url
    else:
        arguments["api_key"] = providers.api_key(settings)
    return _CLASSES[provider](
        model_name=settings.model, stream=settings.stream, generate_kwargs=generate, **arguments
    )


async def prompt(model: Any, messages: Any) -> Any:
    given = [messages] if isinstance(messages, Msg) else messages
    if any(isinstance(each, Msg) for each in given):
        return await formatter_for(model.__class__).format(given)
    return given


@functools.cache
def formatter_for(model_class: type[Any]) -> Any:
    """The formatter for a model class; it has no state.

    Raises: TypeError if AgentScope has no formatter for the class.
    """
    for cls in model_class.__mro__:
        found = getattr(formatters, cls.__name__.removesuffix("Model") + "Formatter", None)
        if cls.__name__.endswith("ChatModel") and found is not None:
            return found()
    raise TypeError(f"AgentScope has no formatter for {model_class.__name__}; pass one to the agent")


def text_of(response: Any) -> str:
    return "".join(block["text"] for block in response.content if block["type"] == "text")


def new_text(response: Any, seen: str) -> str:
    return text_of(response).removeprefix(seen)  # 1.x responses are cumulative


def holds_more_than_text(response: Any) -> bool:
    return any(block["type"] not in ("text", "thinking") for block in response.content)


# --- tools ----------------------------------------------------------------------------------------


class _McpFunction(MCPToolFunction):  # type: ignore[misc]  # 1.x is not typed
    """A tool of a configured MCP server."""

    async def __call__(self, **arguments: Any) -> Any:
        result = await self.session.call_tool(self.name, arguments=arguments)
        content = MCPClientBase._convert_mcp_content_to_as_blocks(results.convertible(result))
        return ToolResponse(content=content, metadata=result.meta)


class _Toolkit(Toolkit):  # type: ignore[misc]  # 1.x is not typed
    """`runtime.tools`, or an agent's clone of it. MCP tools are added and removed at run time; tools of other
    origin take precedence for a name."""

    def __init__(self) -> None:
        super().__init__()
        self.tools: dict[str, Any]
        self.offers: Sequence[Offer] = ()
        self.clones: weakref.WeakSet[_Toolkit] = weakref.WeakSet()

    def register_tool_function(self, *args: Any, **kwargs: Any) -> None:
        for name in [name for name, tool in self.tools.items() if _is_mcp_tool(tool)]:
            del self.tools[name]
        try:
            super().register_tool_function(*args, **kwargs)
        finally:
            self.set_offers(self.offers)

    def set_offers(self, offers: Sequence[Offer]) -> None:
        """Replace all MCP tools with `offers`."""
        self.offers = offers
        self.tools = {name: tool for name, tool in self.tools.items() if not _is_mcp_tool(tool)}
        taken = set(self.tools)
        for offer in offers:
            for name in offer.names_beside(taken):
                function = _McpFunction(offer.link.name, offer.tool, True, session=offer.link)
                super().register_tool_function(function, func_name=name)


def _is_mcp_tool(tool: Any) -> bool:
    return isinstance(getattr(tool.original_func, "__self__", None), _McpFunction)


def new_toolkit() -> Any:
    toolkit = _Toolkit()
    # The state of a toolkit is the list of its active tool groups. If an App saves the shared toolkit with
    # its sessions, loading one session must not switch the groups of all. Clones have a state of their own,
    # which is saved with their agents.
    toolkit.load_state_dict = _ignore_state
    _shared_toolkits.add(toolkit)
    return toolkit


def _ignore_state(state_dict: dict[str, Any], strict: bool = True) -> None:
    pass


def publish(toolkit: Any, offers: Sequence[Offer]) -> None:
    for each in (toolkit, *toolkit.clones):
        each.set_offers(offers)


def _clone(toolkit: Any) -> Any:
    """A toolkit with the same tools, in which an agent can add, remove and switch tools of its own."""
    clone = copy.copy(toolkit)
    del clone.load_state_dict
    clone.tools = {name: copy.copy(tool) for name, tool in toolkit.tools.items()}
    clone.groups = {name: copy.copy(group) for name, group in toolkit.groups.items()}
    clone.skills = dict(toolkit.skills)
    clone._middlewares = list(toolkit._middlewares)
    clone._async_tasks, clone._async_results = {}, {}
    toolkit.clones.add(clone)
    return clone


# --- agents ---------------------------------------------------------------------------------------


@functools.cache
def _patch() -> None:
    # Otherwise 1.x also prints each reply to the worker's stdout; authors can set the variable to "false".
    os.environ.setdefault("AGENTSCOPE_DISABLE_CONSOLE_OUTPUT", "true")
    AgentBase.stream = stream
    AgentBase.__call__ = _serialized(AgentBase.__call__)
    AgentBase.interrupt = _with_interrupt_mark(AgentBase.interrupt)
    ReActAgent.__init__ = _with_defaults(ReActAgent.__init__)
    anthropic = models.AnthropicChatModel
    anthropic._parse_anthropic_stream_completion_response = _with_stream_close(
        anthropic._parse_anthropic_stream_completion_response
    )
    model_calls1.patch()


def adapt(permission_mode: str) -> None:
    _patch()  # 1.x has no tool permissions: `permission_mode` does not apply


def _with_stream_close(parse: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    """Close the provider's stream together with ours.

    The client's stream and its iterator reference each other, so that an abandoned stream would stay open
    until the garbage collector runs.
    """

    @functools.wraps(parse)
    async def parse_and_close(
        self: Any, start: Any, response: Any, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        async with response:
            async for each in parse(self, start, response, *args, **kwargs):
                yield each

    return parse_and_close


def trace(on: bool) -> None:
    # AgentScope keeps the flag in a context variable. Other tasks do not see a value set here, but its
    # default.
    agentscope._config._trace_enabled = contextvars.ContextVar("trace_enabled", default=on)


def traces_model_call() -> bool:
    return True


def _serialized(call: Callable[..., Any]) -> Callable[..., Any]:
    """Make `await agent(msg)` wait for a running reply, because both would write to one queue and one memory,
    and mark a truncated reply."""

    @functools.wraps(call)
    async def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        async with exclusive(self):
            with finish_reasons.observed() as outcome:
                return outcome.mark(await call(self, *args, **kwargs))

    return __call__


def _with_interrupt_mark(interrupt: Callable[..., Any]) -> Callable[..., Any]:
    """Make a save after `agent.interrupt()` wait until the agent has written its memory: 1.x only requests
    the end of the reply."""

    @functools.wraps(interrupt)
    async def mark_and_interrupt(self: Any, *args: Any, **kwargs: Any) -> None:
        if self._reply_task is not None and not self._reply_task.done():
            mark_interrupted(self)
        await interrupt(self, *args, **kwargs)

    return mark_and_interrupt


def _with_defaults(init: Callable[..., None]) -> Callable[..., None]:
    """Give ReActAgent the formatter of its model, if none is passed, and a clone of `runtime.tools`.

    1.x requires the formatter. A toolkit changes while its agent replies (structured output adds and removes
    a tool), so that agents with a shared toolkit would lose each other's results.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        call = signature.bind_partial(self, *args, **kwargs)
        given = call.arguments
        if "formatter" not in given and isinstance(given.get("model"), models.ChatModelBase):
            given["formatter"] = formatter_for(given["model"].__class__)
        toolkit = given.get("toolkit")
        if isinstance(toolkit, Toolkit) and toolkit in _shared_toolkits:
            given["toolkit"] = _clone(toolkit)
        init(*call.args, **call.kwargs)

    return __init__


async def stream(agent: Any, *args: Any, cumulative: bool = False, **kwargs: Any) -> AsyncIterator[Any]:
    """Run an agent and yield its reply as Msg chunks, under the id of the message they belong to.

    Other arguments are those of `await agent(...)`. Cancelling the iteration stops the agent. The
    agent's memory is written before `asyncio.CancelledError` reaches the App.

    Args:
        cumulative: Whether each Msg repeats its message from the beginning.

    Yields:
        Msg with the new text only. A tool call and a tool result are yielded once, complete.
    """

    async def reply(put: Put) -> None:
        agent.set_msg_queue_enabled(True, _Queue(put))
        try:
            final = await agent(*args, **kwargs)
        finally:
            agent.set_msg_queue_enabled(False)
        # 1.x does not put a structured output into the queue; `finish_reasons` marks the final message only.
        if final is not None and final.metadata:
            await put((_copy(final, [] if not cumulative else final.content), True, None))

    deltas = _Deltas()
    async with contextlib.aclosing(relay(agent, reply)) as relayed:
        async for msg, last, _speech in relayed:
            for chunk in [msg] if cumulative else deltas.of(msg, last):
                yield chunk


class _Queue:
    """The only method of a message queue that an agent uses."""

    def __init__(self, put: Put) -> None:
        self.put = put


class _Deltas:
    """Converts cumulative snapshots of messages to the new part of each."""

    def __init__(self) -> None:
        self._sent: dict[tuple[str, str, int], int] = {}  # growing block -> characters returned so far
        self._complete: set[tuple[str, str, str]] = set()  # other blocks that were returned

    def of(self, msg: Any, last: bool) -> list[Any]:
        """The chunks to yield for the next snapshot. `last`: whether the message is complete."""
        fresh = []
        seen: Counter[str] = Counter()  # a block is identified by its position among those of its type
        for block in msg.get_content_blocks():
            kind = block["type"]
            seen[kind] += 1
            field = _DELTA_FIELDS.get(kind)
            if field is not None:
                position = (msg.id, kind, seen[kind])
                value = block.get(field) or ""
                text = value[self._sent.get(position, 0) :]
                self._sent[position] = len(value)
                if text:
                    fresh.append({**block, field: text})
            elif last:
                key = (msg.id, kind, str(block.get("id") or seen[kind]))
                if key not in self._complete:
                    self._complete.add(key)
                    fresh.append(block)
        # The last message of a reply with a structured output or a finish reason has no content.
        return [_copy(msg, fresh)] if fresh or (msg.metadata and not msg.content) else []


def _copy(msg: Any, content: Any) -> Any:
    made = Msg(msg.name, content, msg.role, msg.metadata, msg.timestamp)
    made.id, made.invocation_id = msg.id, msg.invocation_id
    return made
