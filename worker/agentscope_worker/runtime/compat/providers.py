"""The arguments of a provider's client library for the settings of a slot, the same for both majors.

Owns two guarantees for `generate_kwargs` and `client_kwargs`: each argument is sent to the provider, or the
slot is rejected; none is dropped silently. It must not use AgentScope's classes; `agentscope1` and
`agentscope2` build their models with it. It imports a client library only if a slot needs it, because two of
them are optional.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from agentscope_protocol.config.settings import ModelSettings

# AgentScope sets these in each request itself, which would overwrite an author's value.
_REQUEST_KEYS = frozenset(
    {"api_key", "contents", "messages", "model", "stream", "stream_options", "system", "tool_choice", "tools"}
)
# Client arguments that have a key of their own in the slot -> that key.
_SLOT_KEYS = {"api_key": "api_key", "base_url": "base_url", "baseUrl": "base_url", "host": "base_url"}
# The arguments of DashScope's own client. It is a function, and takes them with each request.
_DASHSCOPE_CLIENT = frozenset(
    {"extra_url_parameters", "headers", "request_timeout", "user_agent", "workspace"}
)


def api_key(settings: ModelSettings) -> str:
    """The API key of a slot; "none" if it has only a `base_url`, whose server may not need one.

    Raises: ValueError without a key and without a `base_url`.
    """
    if settings.api_key is not None:
        return settings.api_key.get_secret_value()
    if settings.base_url is None:
        raise ValueError("api_key is missing")
    return "none"


def client_arguments(settings: ModelSettings) -> dict[str, Any]:
    """The arguments of the provider's client from `client_kwargs`, without key and URL for most providers.

    Google's client accepts a URL only among its HTTP options, and Ollama's client a key only in its headers.
    Raises: ValueError for an argument that is set by a key of the slot.
    """
    client: dict[str, Any] = dict(settings.client_kwargs)
    _reject_slot_keys(client, "client_kwargs")
    if settings.provider == "gemini":
        http: dict[str, Any] = dict(client.get("http_options") or {})
        _reject_slot_keys(http, "client_kwargs.http_options")
        if settings.base_url:
            http["base_url"] = settings.base_url
        if http:
            client["http_options"] = http
    elif settings.provider == "ollama" and settings.api_key is not None:
        authorization = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}
        client["headers"] = {**authorization, **(client.get("headers") or {})}
    return client


def request_arguments(settings: ModelSettings, given: Mapping[str, Any]) -> dict[str, Any]:
    """The client's request arguments for `given`, which is `generate_kwargs` or a part of it.

    Raises: ValueError for arguments that would be lost or that the client rejects; ImportError.
    """
    _reject(given, _REQUEST_KEYS, "AgentScope sets it for each request")
    return _REQUESTS[settings.provider](given)


def dashscope_native(settings: ModelSettings) -> dict[str, Any]:
    """The request arguments for DashScope's own client, including the URL and `client_kwargs`.

    That client has one URL per process; sending it with each request lets slots use different URLs.
    """
    client = client_arguments(settings)
    unknown = sorted(client.keys() - _DASHSCOPE_CLIENT)
    if unknown:
        raise ValueError(
            f"client_kwargs of dashscope cannot contain {', '.join(unknown)} on AgentScope 1.x; "
            f"supported: {', '.join(sorted(_DASHSCOPE_CLIENT))}"
        )
    if settings.base_url:
        client["base_address"] = settings.base_url
    _reject(settings.generate_kwargs, _REQUEST_KEYS, "AgentScope sets it for each request")
    _reject(settings.generate_kwargs, client.keys() | {"base_address"}, "the slot or client_kwargs set it")
    # The client sends arguments that it does not know among the request's parameters.
    return {**settings.generate_kwargs, **client}


async def close(model: Any) -> None:
    """Close the connections of a model's client, if it has any."""
    client = getattr(model, "client", None)
    close_async = getattr(getattr(client, "aio", None), "aclose", None)  # Google's client has two transports
    for closing in (close_async, getattr(client, "close", None)):
        if closing is not None:
            waiting = closing()
            if inspect.isawaitable(waiting):
                await waiting
    # DashScope's own client has a pool for the event loop, which the next request would create again.
    pool = sys.modules.get("dashscope.api_entities.aio_session")
    if client is None and pool is not None:
        await pool.close_shared_aio_session()


def _reject_slot_keys(given: Mapping[str, Any], where: str) -> None:
    for key in given:
        if key in _SLOT_KEYS:
            raise ValueError(f"{where} cannot set {key}: set {_SLOT_KEYS[key]} of the slot instead")


def _reject(given: Mapping[str, Any], keys: Collection[str], reason: str) -> None:
    lost = sorted(given.keys() & set(keys))
    if lost:
        raise ValueError(f"generate_kwargs cannot set {', '.join(lost)}: {reason}")


def _openai(given: Mapping[str, Any]) -> dict[str, Any]:
    from openai.resources.chat.completions import AsyncCompletions

    return _with_extra_body(given, AsyncCompletions.create)


def _anthropic(given: Mapping[str, Any]) -> dict[str, Any]:
    from anthropic.resources.messages import AsyncMessages

    return _with_extra_body(given, AsyncMessages.create)


def _with_extra_body(given: Mapping[str, Any], create: Callable[..., Any]) -> dict[str, Any]:
    """Move arguments that `create` does not have into the request body: servers know more than clients."""
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
            f"generate_kwargs cannot contain {', '.join(unknown)}: Google's client accepts only the fields "
            "of its GenerateContentConfig; put other fields of the request body into "
            "generate_kwargs.http_options.extra_body"
        )
    GenerateContentConfig.model_validate(request)  # checks the types now, not at the first request
    _patch_gemini_stream_close()
    return request


@functools.cache
def _patch_gemini_stream_close() -> None:
    """Close the connection of a stream as soon as its reader stops.

    The client's response and its iterator reference each other, so that an abandoned stream would stay open
    until the garbage collector runs (google-genai 3.4). Iterating without storing the iterator fixes this.
    Remove this function once `HttpResponse.__aiter__` does so itself.
    """
    from google.genai import _api_client

    response: Any = getattr(_api_client, "HttpResponse", None)
    if hasattr(response, "async_segments"):
        response.__aiter__ = response.async_segments


def _ollama(given: Mapping[str, Any]) -> dict[str, Any]:
    """Ollama accepts sampling parameters only among its options."""
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
