"""The implementation of `majors.AgentScope` for AgentScope 2.x.

Owns the patches of 2.x classes and every use of 2.x names. It must be imported only through `majors.seam`,
which checks the installation first; 1.x must not need anything here. Each patch is documented at the function
that makes it.

Read next: `messages2` for the messages.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import weakref
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentscope import credential as credentials
from agentscope import model as models
from agentscope.agent import Agent
from agentscope.event import EventType, UserInterruptEvent
from agentscope.message import Msg, TextBlock, ThinkingBlock
from agentscope.permission import PermissionMode
from agentscope.tool import MCPTool, Toolkit

from agentscope_worker.runtime.compat import factories2, finish_reasons, messages2, model_calls2, providers
from agentscope_worker.runtime.compat.agents import Put, exclusive, relay

if TYPE_CHECKING:
    from agentscope_protocol.config.settings import ModelSettings
    from agentscope_worker.runtime.mcp.tools import Offer

MAJOR = 2

_CLASSES = {
    "openai": (models.OpenAIChatModel, credentials.OpenAICredential),
    "anthropic": (models.AnthropicChatModel, credentials.AnthropicCredential),
    "dashscope": (models.DashScopeChatModel, credentials.DashScopeCredential),
    "gemini": (models.GeminiChatModel, credentials.GeminiCredential),
    "ollama": (models.OllamaChatModel, credentials.OllamaCredential),
}
# Event that completes a block -> the type of that block. Hints are excluded: AgentScope sends them to the
# model, such as the current time, and they are not part of the response.
_COMPLETE_BLOCKS = {
    EventType.TOOL_CALL_END: "tool_call",
    EventType.TOOL_RESULT_END: "tool_result",
    EventType.DATA_BLOCK_END: "data",
}
# Parameters that a model omits from its requests unless one of the listed parameters is set too.
_SENT_WITH: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "openai": {"reasoning_effort": ("thinking_enable",), "thinking_enable": ("reasoning_effort",)},
    "anthropic": {
        "thinking_budget": ("thinking_enable", "thinking_mode"),
        "thinking_display": ("thinking_enable", "thinking_mode"),
    },
    "gemini": {"thinking_budget": ("thinking_enable",)},
}
_OLLAMA_OPTIONS = {"max_tokens", "temperature"}  # with other options set, the model would drop its own

# The toolkits made by `new_toolkit`, for `runtime.tools`. An agent that is given one works on a clone.
_shared_toolkits: weakref.WeakSet[Any] = weakref.WeakSet()
_permission_mode = PermissionMode.BYPASS  # for agents created from now on; see `adapt`
_tracing = False  # for agents created from now on; see `trace`


message_class = messages2.message_class
block_classes = messages2.block_classes
plain_fields = messages2.plain_fields
encode = messages2.encode


# --- models ---------------------------------------------------------------------------------------


def make_model(settings: ModelSettings) -> Any:
    provider, url = settings.provider, settings.base_url
    model_class, credential_class = _CLASSES[provider]
    client = providers.client_arguments(settings)
    credential: dict[str, Any] = {}
    if provider != "ollama":
        credential["api_key"] = providers.api_key(settings)
    if provider == "openai" and "organization" in client:  # the model reads it from the credential
        credential["organization"] = client.pop("organization")
    if url and provider != "gemini":
        credential["host" if provider == "ollama" else "base_url"] = url
    parameters, rest = _parameters(settings, model_class.Parameters.model_fields)
    request = providers.request_arguments(settings, rest)
    return (_with_arguments(model_class, request) if request else model_class)(
        credential=credential_class(**credential),
        model=settings.model,
        parameters=model_class.Parameters(**parameters),
        stream=settings.stream,
        client_kwargs=client,
    )


def _parameters(settings: ModelSettings, known: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`generate_kwargs`, split into the model's Parameters and the arguments that only the provider knows.

    Raises: ValueError for a parameter that the model sends only together with another one.
    """
    given = settings.generate_kwargs
    taken = set(known) & given.keys()
    if settings.provider == "ollama":
        taken -= _OLLAMA_OPTIONS
    for name, others in _SENT_WITH.get(settings.provider, {}).items():
        if given.get(name) and not any(given.get(other) for other in others):
            if (settings.provider, name) == ("openai", "reasoning_effort"):
                taken.discard(name)  # the provider's client accepts it alone
                continue
            raise ValueError(
                f"generate_kwargs.{name} is only sent together with {' or '.join(others)} on AgentScope 2.x"
            )
    parameters = {name: value for name, value in given.items() if name in taken}
    return parameters, {name: value for name, value in given.items() if name not in taken}


def _with_arguments(model_class: type[Any], arguments: dict[str, Any]) -> type[Any]:
    """`model_class` with `arguments` in each request: 2.x drops arguments that are not in its Parameters."""
    body = arguments.get("extra_body") or {}

    async def _call_api(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = {**arguments, **kwargs}
        if body and kwargs.get("extra_body"):  # structured output sets one itself
            given["extra_body"] = {**body, **kwargs["extra_body"]}
        return await model_class._call_api(self, *args, **given)

    members = {"_call_api": _call_api, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), members)


async def prompt(model: Any, messages: Any) -> Any:
    return [messages] if isinstance(messages, Msg) else messages


def text_of(response: Any) -> str:
    return "".join(block.text for block in response.content if block.type == "text")


def new_text(response: Any, seen: str) -> str:
    text = text_of(response)
    # A 2.x stream consists of deltas, followed by the complete response.
    return text.removeprefix(seen) if response.is_last and text.startswith(seen) else text


def holds_more_than_text(response: Any) -> bool:
    return any(block.type not in ("text", "thinking") for block in response.content)


# --- tools ----------------------------------------------------------------------------------------


class _McpTool(MCPTool):  # type: ignore[misc]  # 2.x is not typed
    """A tool of a configured MCP server, under the name that `runtime.tools` gives it."""

    def __init__(self, offer: Offer, name: str) -> None:
        super().__init__(offer.link.name, offer.tool, session=offer.link)
        self.name = name


class _Toolkit(Toolkit):  # type: ignore[misc]  # 2.x is not typed
    """`runtime.tools`, or an agent's clone of it. MCP tools are added and removed at run time; tools of other
    origin take precedence for a name."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.offers: Sequence[Offer] = ()
        self.clones: weakref.WeakSet[_Toolkit] = weakref.WeakSet()

    async def add_tool(self, *args: Any, **kwargs: Any) -> None:
        offers = self.offers
        self.set_offers(())
        try:
            await super().add_tool(*args, **kwargs)
        finally:
            self.set_offers(offers)

    def set_offers(self, offers: Sequence[Offer]) -> None:
        """Replace all MCP tools with `offers`."""
        self.offers = offers
        taken = {tool.name for group in self.tool_groups for tool in group.tools if not _is_mcp_tool(tool)}
        for group in self.tool_groups:
            if group.name == "basic":  # new lists, because a reply may be reading the old ones
                group.tools = [tool for tool in group.tools if not _is_mcp_tool(tool)]
                group.tools += [_McpTool(each, name) for each in offers for name in each.names_beside(taken)]


def _is_mcp_tool(tool: Any) -> bool:
    return isinstance(tool, _McpTool)


def new_toolkit() -> Any:
    toolkit = _Toolkit()
    _shared_toolkits.add(toolkit)
    return toolkit


def publish(toolkit: Any, offers: Sequence[Offer]) -> None:
    for each in (toolkit, *toolkit.clones):
        each.set_offers(offers)


def _clone(toolkit: Any) -> Any:
    """A toolkit with the same tools, in which an agent can add and remove tools of its own."""
    basic, *others = toolkit.tool_groups
    groups = [copy.copy(group) for group in others]
    for group in groups:
        group.tools = list(group.tools)
        group.mcps = list(group.mcps)
        group.skills_or_loaders = list(group.skills_or_loaders)
    clone = _Toolkit(
        tools=basic.tools,
        skills_or_loaders=basic.skills_or_loaders,
        mcps=basic.mcps,
        tool_groups=groups,
        meta_tool_response_template=toolkit.meta_tool_response_template,
        skill_instruction_template=toolkit.skill_instruction_template,
    )
    clone.offers = toolkit.offers
    toolkit.clones.add(clone)
    return clone


# --- messages and agents --------------------------------------------------------------------------


def adapt(permission_mode: str) -> None:
    global _permission_mode
    _permission_mode = PermissionMode(permission_mode)
    _patch()


@functools.cache
def _patch() -> None:
    Msg.__init__ = _with_v1_arguments(Msg.__init__)
    Agent.__init__ = _with_runtime_defaults(Agent.__init__)
    Agent.__call__ = reply
    Agent.stream = stream
    factories2.set_factories()
    model_calls2.patch()


def trace(on: bool) -> None:
    # Once this is off again, existing agents follow OpenTelemetry's provider, which they look up each time.
    global _tracing
    _tracing = on


def traces_model_call() -> bool:
    # The middleware of an agent creates a span around each model call; nothing else in 2.x does.
    from opentelemetry.trace import get_current_span

    attributes = getattr(get_current_span(), "attributes", None) or {}
    return attributes.get("gen_ai.operation.name") == "chat"


def _with_v1_arguments(init: Callable[..., None]) -> Callable[..., None]:
    """Accept `Msg("name", "text", "user")` as 1.x does: positional arguments, and a str as one text block."""

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if args:
            positional = dict(zip(("name", "content", "role", "metadata"), args, strict=False))
            twice = sorted(positional.keys() & kwargs.keys())
            if twice or len(args) > len(positional):
                raise TypeError(
                    f"Msg got {', '.join(twice)} twice"
                    if twice
                    else "Msg takes name, content, role and metadata by position, all others by name"
                )
            kwargs.update(positional)
        if isinstance(kwargs.get("content"), str):
            kwargs["content"] = [TextBlock(text=kwargs["content"])]
        if "metadata" in kwargs and kwargs["metadata"] is None:
            del kwargs["metadata"]
        init(self, **kwargs)

    return __init__


def _with_runtime_defaults(init: Callable[..., None]) -> Callable[..., None]:
    """Give Agent the configured permission mode, a clone of `runtime.tools`, and spans.

    2.x asks a user for permission before most tools, and a worker has no user to ask. A mode that the author
    has set is kept. Structured output adds a tool to the agent's toolkit and removes it, so that agents with
    a shared toolkit would lose each other's results.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        call = signature.bind_partial(self, *args, **kwargs)
        toolkit = call.arguments.get("toolkit")
        if isinstance(toolkit, Toolkit) and toolkit in _shared_toolkits:
            call.arguments["toolkit"] = _clone(toolkit)
        if _tracing:
            call.arguments["middlewares"] = _with_tracing(call.arguments.get("middlewares") or [])
        init(*call.args, **call.kwargs)
        permissions = self.state.permission_context
        if permissions.mode is PermissionMode.DEFAULT:
            permissions.mode = _permission_mode

    return __init__


def _with_tracing(middlewares: list[Any]) -> list[Any]:
    from agentscope.middleware import TracingMiddleware

    if any(isinstance(each, TracingMiddleware) for each in middlewares):
        return middlewares
    return [TracingMiddleware(), *middlewares]  # outermost, so that its spans include the others


async def reply(agent: Any, *args: Any, **kwargs: Any) -> Any:
    """`await agent(msg)`, as on 1.x; waits for a running reply of the agent."""
    async with exclusive(agent):
        await _end_pending_reply(agent)
        with finish_reasons.observed() as outcome:
            return outcome.mark(await agent.reply(*args, **kwargs))


async def stream(
    agent: Any, inputs: Any = None, *, cumulative: bool = False, **kwargs: Any
) -> AsyncIterator[Any]:
    """Run an agent and yield its reply as Msg chunks, under the id of the message they belong to.

    Other arguments are those of `agent.reply(...)`. Cancelling the iteration stops the agent. The
    agent's memory is written before `asyncio.CancelledError` reaches the App.

    Args:
        cumulative: Whether each Msg repeats its message from the beginning.

    Yields:
        Msg with the new text only. A tool call and a tool result are yielded once, complete.
    """

    async def run(put: Put) -> None:
        if inputs is None or isinstance(inputs, Msg | list):
            await _end_pending_reply(agent)
        with finish_reasons.observed() as outcome:
            async for event in agent.reply_stream(inputs, yield_final_msg=True, **kwargs):
                await put(outcome.mark(event) if isinstance(event, Msg) else event)

    message: Any = None
    async with contextlib.aclosing(relay(agent, run)) as relayed:
        async for event in relayed:
            if isinstance(event, Msg):
                chunk = _last_chunk(event, message)
            elif event.type == EventType.REPLY_START:
                message = Msg(id=event.reply_id, name=event.name, role=event.role, content=[])
                continue
            else:
                chunk = _chunk(event, message, cumulative)
            if chunk is not None:
                yield chunk


async def _end_pending_reply(agent: Any) -> None:
    """End a reply that waits for a permission, because an agent in that state rejects new messages."""
    if agent.state.has_awaiting_tool_calls(agent.name):
        async for _ in agent.reply_stream(UserInterruptEvent(reply_id=agent.state.reply_id)):
            pass


def _chunk(event: Any, message: Any, cumulative: bool) -> Any | None:
    """Apply `event` to `message`, which holds the reply so far; returns the Msg to yield for it, if any."""
    if message is None or getattr(event, "reply_id", None) != message.id:
        return None
    message.append_event(event)
    if event.type == EventType.TEXT_BLOCK_DELTA:
        new = TextBlock(id=event.block_id, text=event.delta)
    elif event.type == EventType.THINKING_BLOCK_DELTA:
        new = ThinkingBlock(id=event.block_id, thinking=event.delta)
    elif event.type in _COMPLETE_BLOCKS:
        block_id = getattr(event, "tool_call_id", None) or event.block_id
        found = message._find_block(_COMPLETE_BLOCKS[event.type], block_id)
        if found is None:
            return None
        new = found.model_copy(deep=True)
    else:
        return None
    return message.model_copy(deep=True) if cumulative else _with_content(message, [new])


def _last_chunk(final: Any, message: Any) -> Any | None:
    """The part of the reply's final message that no event contained, if any: a structured output, a finish
    reason, or a text that the model did not write, such as a request for a permission."""
    sent = message.get_text_content("") or "" if message is not None else ""
    if (final.get_text_content("") or "") not in sent:
        return final
    has_more = final.structured_output or finish_reasons.KEY in final.metadata
    return final.model_copy(update={"content": []}) if has_more else None


def _with_content(message: Any, content: list[Any]) -> Any:
    return Msg(id=message.id, name=message.name, role=message.role, content=content)
