"""What the settings of a slot mean to a provider's client library, the same for both majors.

It owns the two promises about `generate_kwargs` and `client_kwargs`: each of them reaches the wire,
or the slot is refused; none is dropped on the way. It owns no class of AgentScope; `agentscope1` and
`agentscope2` build their models with it. A client library is imported here only when a slot needs
it, since two of them are not installed everywhere.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from agentscope_protocol.config.settings import ModelSettings

# What AgentScope writes into each request itself, so that a value of the author's would be lost.
_REQUEST_KEYS = frozenset(
    {"api_key", "contents", "messages", "model", "stream", "stream_options", "system", "tool_choice", "tools"}
)
# What a slot says beside its client_kwargs, and under which key.
_SLOT_KEYS = {"api_key": "api_key", "base_url": "base_url", "baseUrl": "base_url", "host": "base_url"}
# How DashScope's own client, which is a function, names what others take once per client.
_DASHSCOPE_CLIENT = frozenset(
    {"extra_url_parameters", "headers", "request_timeout", "user_agent", "workspace"}
)


def api_key(settings: ModelSettings) -> str:
    """The key of a slot; a server at a `base_url` of the author's own may need none.

    Raises: ValueError when the provider itself is asked without a key.
    """
    if settings.api_key is not None:
        return settings.api_key.get_secret_value()
    if settings.base_url is None:
        raise ValueError("api_key is missing")
    return "none"


def client_arguments(settings: ModelSettings) -> dict[str, Any]:
    """`client_kwargs` as the provider's client takes them, without key and URL for most providers.

    Google's client takes a URL among its HTTP options only, and Ollama's a key among its headers.
    Raises: ValueError for what the slot says beside them.
    """
    client: dict[str, Any] = dict(settings.client_kwargs)
    _refuse_slot_keys(client, "client_kwargs")
    if settings.provider == "gemini":
        http: dict[str, Any] = dict(client.get("http_options") or {})
        _refuse_slot_keys(http, "client_kwargs.http_options")
        if settings.base_url:
            http["base_url"] = settings.base_url
        if http:
            client["http_options"] = http
    elif settings.provider == "ollama" and settings.api_key is not None:
        authorization = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}
        client["headers"] = {**authorization, **(client.get("headers") or {})}
    return client


def request_arguments(settings: ModelSettings, given: Mapping[str, Any]) -> dict[str, Any]:
    """`given`, which is `generate_kwargs` or a part of it, as the client takes them with a request.

    Raises: ValueError for what would be lost, or what the provider's client refuses; ImportError.
    """
    _refuse(given, _REQUEST_KEYS, "AgentScope does, for each request")
    return _REQUESTS[settings.provider](given)


def dashscope_native(settings: ModelSettings) -> dict[str, Any]:
    """Arguments of each request through DashScope's own client, with URL and `client_kwargs`.

    That client keeps one URL for the process; given with each request, slots may differ in it.
    """
    client = client_arguments(settings)
    unknown = sorted(client.keys() - _DASHSCOPE_CLIENT)
    if unknown:
        raise ValueError(
            f"client_kwargs of dashscope cannot hold {', '.join(unknown)} on AgentScope 1.x; "
            f"known are {', '.join(sorted(_DASHSCOPE_CLIENT))}"
        )
    if settings.base_url:
        client["base_address"] = settings.base_url
    _refuse(settings.generate_kwargs, _REQUEST_KEYS, "AgentScope does, for each request")
    _refuse(settings.generate_kwargs, client.keys() | {"base_address"}, "the slot and its client_kwargs do")
    # What the client has no argument for is sent among the request's parameters.
    return {**settings.generate_kwargs, **client}


async def close(model: Any) -> None:
    """Close the connections of a model's client, as far as it has any."""
    client = getattr(model, "client", None)
    close_async = getattr(getattr(client, "aio", None), "aclose", None)  # Google's has two transports
    for closing in (close_async, getattr(client, "close", None)):
        if closing is not None:
            waiting = closing()
            if inspect.isawaitable(waiting):
                await waiting
    # DashScope's own client has a pool for the event loop, which the next request would make anew.
    pool = sys.modules.get("dashscope.api_entities.aio_session")
    if client is None and pool is not None:
        await pool.close_shared_aio_session()


def _refuse_slot_keys(given: Mapping[str, Any], where: str) -> None:
    for key in given:
        if key in _SLOT_KEYS:
            raise ValueError(f"{where} cannot set {key}: say {_SLOT_KEYS[key]} of the slot instead")


def _refuse(given: Mapping[str, Any], keys: Collection[str], who: str) -> None:
    lost = sorted(given.keys() & set(keys))
    if lost:
        raise ValueError(f"generate_kwargs cannot set {', '.join(lost)}: {who}")


def _openai(given: Mapping[str, Any]) -> dict[str, Any]:
    from openai.resources.chat.completions import AsyncCompletions

    return _with_extra_body(given, AsyncCompletions.create)


def _anthropic(given: Mapping[str, Any]) -> dict[str, Any]:
    from anthropic.resources.messages import AsyncMessages

    return _with_extra_body(given, AsyncMessages.create)


def _with_extra_body(given: Mapping[str, Any], create: Callable[..., Any]) -> dict[str, Any]:
    """What `create` has no argument for goes into the body as it is: servers know more than clients."""
    known = inspect.signature(create).parameters
    request = {key: value for key, value in given.items() if key in known}
    more = {key: value for key, value in given.items() if key not in known}
    return request | {"extra_body": {**more, **(request.get("extra_body") or {})}} if more else request


def _gemini(given: Mapping[str, Any]) -> dict[str, Any]:
    from google.genai.types import GenerateContentConfig

    request = dict(given)
    if "max_tokens" in request:
        request["max_output_tokens"] = request.pop("max_tokens")
    fields = GenerateContentConfig.model_fields
    known = fields.keys() | {field.alias for field in fields.values()}
    unknown = sorted(request.keys() - known)
    if unknown:
        raise ValueError(
            f"generate_kwargs cannot hold {', '.join(unknown)}: Google's client takes the names of its "
            "GenerateContentConfig only; fields of the body that it does not know go into "
            "generate_kwargs.http_options.extra_body"
        )
    GenerateContentConfig.model_validate(request)  # its types, now rather than at the first request
    _end_googles_streams_at_once()
    return request


@functools.cache
def _end_googles_streams_at_once() -> None:
    """Close the connection of a stream as soon as nobody reads it any more.

    The client's response and its iterator hold each other, so that a stream that is left early would
    go on until the garbage collector finds it (google-genai 3.4). Iterating without storing the
    iterator is all that it takes; to be removed once `HttpResponse.__aiter__` does so itself.
    """
    from google.genai import _api_client

    response: Any = getattr(_api_client, "HttpResponse", None)
    if hasattr(response, "async_segments"):
        response.__aiter__ = response.async_segments


def _ollama(given: Mapping[str, Any]) -> dict[str, Any]:
    """Ollama takes sampling parameters among its options only."""
    from ollama import AsyncClient

    beside = inspect.signature(AsyncClient.chat).parameters
    request = {key: value for key, value in given.items() if key in beside}
    more = {key: value for key, value in given.items() if key not in beside}
    if "max_tokens" in more:
        more["num_predict"] = more.pop("max_tokens")
    options = {**(request.get("options") or {}), **more}
    return request | {"options": options} if options else request


_REQUESTS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "dashscope": _openai,
    "gemini": _gemini,
    "ollama": _ollama,
}
