"""AgentScope 1.x: what it needs done its way.

It owns the patches of 1.x classes and every use of 1.x names, and fulfils `compat.AgentScope`. It
must be imported through `compat.seam` only, which checks the installation first; nothing here may
be needed on 2.x. What a patch changes is documented at the function that makes it.
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
from agentscope.mcp import MCPToolFunction
from agentscope.message import Msg
from agentscope.tool import Toolkit

from agentscope_worker.runtime import lossy_json
from agentscope_worker.runtime.compat import providers
from agentscope_worker.runtime.compat.agents import Put, interrupted, relay, turn_of

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
_DELTA_FIELDS = {"text": "text", "thinking": "thinking"}  # block type -> the field that grows

# The toolkits made here, for `runtime.tools`; an agent that is given one works on a clone.
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
        if provider == "openai" and "organization" in client:  # an argument of the model's own
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
    """The formatter of a model's provider; it holds no state.

    Raises: TypeError for a model class that AgentScope has no formatter for.
    """
    for cls in model_class.__mro__:
        found = getattr(formatters, cls.__name__.removesuffix("Model") + "Formatter", None)
        if cls.__name__.endswith("ChatModel") and found is not None:
            return found()
    raise TypeError(f"AgentScope has no formatter for {model_class.__name__}; give the agent one")


def text_of(response: Any) -> str:
    return "".join(block["text"] for block in response.content if block["type"] == "text")


def new_text(response: Any, seen: str) -> str:
    return text_of(response).removeprefix(seen)  # 1.x responses are cumulative


def holds_more_than_text(response: Any) -> bool:
    return any(block["type"] not in ("text", "thinking") for block in response.content)


# --- tools ----------------------------------------------------------------------------------------


class _McpFunction(MCPToolFunction):  # type: ignore[misc]  # 1.x is not typed
    """A tool of a configured MCP server."""


class _Toolkit(Toolkit):  # type: ignore[misc]  # 1.x is not typed
    """`runtime.tools`, or an agent's clone of it: MCP tools come and go, others have the first right
    to a name."""

    def __init__(self) -> None:
        super().__init__()
        self.tools: dict[str, Any]
        self.offers: Sequence[Offer] = ()
        self.clones: weakref.WeakSet[_Toolkit] = weakref.WeakSet()

    def register_tool_function(self, *args: Any, **kwargs: Any) -> None:
        for name in [name for name, tool in self.tools.items() if _is_of_mcp(tool)]:
            del self.tools[name]
        try:
            super().register_tool_function(*args, **kwargs)
        finally:
            self.set_offers(self.offers)

    def set_offers(self, offers: Sequence[Offer]) -> None:
        """Replace all MCP tools by `offers`."""
        self.offers = offers
        self.tools = {name: tool for name, tool in self.tools.items() if not _is_of_mcp(tool)}
        taken = set(self.tools)
        for offer in offers:
            for name in offer.names_beside(taken):
                function = _McpFunction(offer.link.name, offer.tool, True, session=offer.link)
                super().register_tool_function(function, func_name=name)


def _is_of_mcp(tool: Any) -> bool:
    return isinstance(getattr(tool.original_func, "__self__", None), _McpFunction)


def new_toolkit() -> Any:
    toolkit = _Toolkit()
    # Its state is which groups of tools are active: an App that saves it with its sessions must not,
    # by loading one of them, switch the groups of all. Clones have their own, saved with their agents.
    toolkit.load_state_dict = _keep_state
    _shared_toolkits.add(toolkit)
    return toolkit


def _keep_state(state_dict: dict[str, Any], strict: bool = True) -> None:
    pass


def publish(toolkit: Any, offers: Sequence[Offer]) -> None:
    for each in (toolkit, *toolkit.clones):
        each.set_offers(offers)


def _clone(toolkit: Any) -> Any:
    """A toolkit with the same tools, in which an agent may add, remove and switch its own."""
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
    # Each reply would be printed to the worker's standard output too; authors may say "false".
    os.environ.setdefault("AGENTSCOPE_DISABLE_CONSOLE_OUTPUT", "true")
    AgentBase.stream = stream
    AgentBase.__call__ = _one_at_a_time(AgentBase.__call__)
    AgentBase.interrupt = _telling_of_it(AgentBase.interrupt)
    ReActAgent.__init__ = _with_defaults(ReActAgent.__init__)
    anthropic = models.AnthropicChatModel
    anthropic._parse_anthropic_stream_completion_response = _closing_its_stream(
        anthropic._parse_anthropic_stream_completion_response
    )


def adapt(permission_mode: str) -> None:
    _patch()  # 1.x has no tool permissions, so that there is nothing to set


def _closing_its_stream(parse: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    """Close the provider's stream with ours: left early, it would go on until the garbage collector
    finds it, since the client's stream and its iterator hold each other."""

    @functools.wraps(parse)
    async def parse_and_close(
        self: Any, start: Any, response: Any, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        async with response:
            async for each in parse(self, start, response, *args, **kwargs):
                yield each

    return parse_and_close


def trace(on: bool) -> None:
    # AgentScope keeps this in a context variable, whose value other tasks do not see; its default they do.
    agentscope._config._trace_enabled = contextvars.ContextVar("trace_enabled", default=on)


def traces_model_call() -> bool:
    return True


def _one_at_a_time(call: Callable[..., Any]) -> Callable[..., Any]:
    """`await agent(msg)` waits for a reply that runs: both would write to one queue and memory."""

    @functools.wraps(call)
    async def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        async with turn_of(self):
            return await call(self, *args, **kwargs)

    return __call__


def _telling_of_it(interrupt: Callable[..., Any]) -> Callable[..., Any]:
    """Let a save that follows `agent.interrupt()` wait for what the agent still writes into its memory:
    1.x only asks its reply to end."""

    @functools.wraps(interrupt)
    async def interrupt_and_tell(self: Any, *args: Any, **kwargs: Any) -> None:
        if self._reply_task is not None and not self._reply_task.done():
            interrupted(self)
        await interrupt(self, *args, **kwargs)

    return interrupt_and_tell


def _with_defaults(init: Callable[..., None]) -> Callable[..., None]:
    """ReActAgent with the model's own formatter where none is given, and its own `runtime.tools`.

    1.x requires the formatter. Toolkits change while an agent replies (structured output adds and
    removes a tool), so that agents that shared one would lose each other's results.
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
        agent.set_msg_queue_enabled(True, _Outlet(put))
        try:
            final = await agent(*args, **kwargs)
        finally:
            agent.set_msg_queue_enabled(False)
        if final is not None and final.metadata:  # a structured output is printed nowhere
            await put((_copy(final, [] if not cumulative else final.content), True, None))

    deltas = _Deltas()
    async with contextlib.aclosing(relay(agent, reply)) as said:
        async for msg, last, _speech in said:
            for chunk in [msg] if cumulative else deltas.of(msg, last):
                yield chunk


class _Outlet:
    """The one method of a queue that an agent uses."""

    def __init__(self, put: Put) -> None:
        self.put = put


class _Deltas:
    """Turns cumulative snapshots of messages into what is new in each."""

    def __init__(self) -> None:
        self._grown: dict[tuple[str, str, int], int] = {}  # text block -> characters that are out
        self._out: set[tuple[str, str, str]] = set()  # other blocks that are out

    def of(self, msg: Any, last: bool) -> list[Any]:
        """The chunks to yield for the next snapshot; `last` when the message is complete."""
        fresh = []
        seen: Counter[str] = Counter()  # a block is known by its place among those of its type
        for block in msg.get_content_blocks():
            kind = block["type"]
            seen[kind] += 1
            field = _DELTA_FIELDS.get(kind)
            if field is not None:
                place = (msg.id, kind, seen[kind])
                whole = block.get(field) or ""
                text = whole[self._grown.get(place, 0) :]
                self._grown[place] = len(whole)
                if text:
                    fresh.append({**block, field: text})
            elif last:
                key = (msg.id, kind, str(block.get("id") or seen[kind]))
                if key not in self._out:
                    self._out.add(key)
                    fresh.append(block)
        return [_copy(msg, fresh)] if fresh else []


def _copy(msg: Any, content: Any) -> Any:
    made = Msg(msg.name, content, msg.role, msg.metadata, msg.timestamp)
    made.id, made.invocation_id = msg.id, msg.invocation_id
    return made
