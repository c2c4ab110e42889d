"""A slot of each provider with every setting, and the place of each setting in the provider's requests.

Used by the worker's tests and for the table of providers in docs/. It sends no requests itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.fakes.model_server import ModelServer, Request

HEADER: Final = "X-Team"  # set by client_kwargs, in each provider's form

_MODELS: Final = {
    "openai": "gpt-4",
    "anthropic": "claude-sonnet-4",
    "dashscope": "qwen-max",
    "gemini": "gemini-2.5-pro",
    "ollama": "llama3",
}
# Anthropic's client sends its key in one of these headers, depending on its version.
_KEY_HEADERS: Final = {"anthropic": ("X-Api-Key", "Authorization"), "gemini": ("X-Goog-Api-Key",)}
_BEARER: Final = "Bearer "
# A rarely used parameter per provider; the last is unknown to AgentScope and to the client.
_UNUSUAL: Final[Mapping[str, Mapping[str, Any]]] = {
    "openai": {"seed": 7, "min_p": 0.1},
    "anthropic": {"stop_sequences": ["END"], "min_p": 0.1},
    "dashscope": {"seed": 7, "min_p": 0.1},
    "gemini": {"seed": 7, "http_options": {"extra_body": {"min_p": 0.1}}},
    "ollama": {"seed": 7, "min_p": 0.1},
}


@dataclass(frozen=True)
class Expected:
    """The expected content of a request: its URL, its key in one of these headers, fields of its body."""

    path: str
    key_headers: tuple[str, ...]
    key: str
    team: str
    model: str
    body: Mapping[str, Any]

    def seen_in(self, request: Request) -> Expected:
        """The same fields taken from `request`; None for missing ones."""
        body = {place: _at(request.body, place) for place in self.body}
        model = request.path if self.model == self.path else request.body.get("model", "")
        keys = [request.headers[name] for name in self.key_headers if name in request.headers]
        return Expected(
            path=request.path,
            key_headers=self.key_headers,
            key=" and ".join(key.removeprefix(_BEARER) for key in keys),
            team=request.headers.get(HEADER, ""),
            model=model,
            body=body,
        )


def slot(server: ModelServer, provider: str, major: int, *, stream: bool = True) -> dict[str, Any]:
    """Settings of a slot that uses `server`."""
    return {
        "provider": provider,
        "model": _MODELS[provider],
        "api_key": f"key-of-{provider}",
        "base_url": server.url(provider, major),
        "stream": stream,
        "generate_kwargs": {"temperature": 0.5, "max_tokens": 99, **_UNUSUAL[provider]},
        "client_kwargs": _client_kwargs(provider, major),
    }


def expected(provider: str, major: int, stream: bool) -> Expected:
    """The expected content of each request of a provider's slot, on a major of AgentScope."""
    path = _path(provider, major, stream)
    return Expected(
        path=path,
        key_headers=_KEY_HEADERS.get(provider, ("Authorization",)),
        key=f"key-of-{provider}",
        team="blue",
        model=path if provider == "gemini" else _MODELS[provider],
        body=_body(provider, major, stream),
    )


def _client_kwargs(provider: str, major: int) -> dict[str, Any]:
    headers = {HEADER: "blue"}
    if provider == "gemini":
        return {"http_options": {"headers": headers, "api_version": "v1beta"}}
    if provider == "ollama" or (provider, major) == ("dashscope", 1):
        return {"headers": headers}
    return {"default_headers": headers}


def _path(provider: str, major: int, stream: bool) -> str:
    if provider == "gemini":
        action = "streamGenerateContent" if stream else "generateContent"
        return f"/v1beta/models/{_MODELS[provider]}:{action}"
    if provider == "dashscope" and major == 1:
        return "/api/v1/services/aigc/text-generation/generation"
    return {
        "openai": "/v1/chat/completions",
        "anthropic": "/v1/messages",
        "dashscope": "/compatible-mode/v1/chat/completions",
        "ollama": "/api/chat",
    }[provider]


def _body(provider: str, major: int, stream: bool) -> dict[str, Any]:
    """Dotted path in the body -> value."""
    if provider == "gemini":
        config = {"temperature": 0.5, "maxOutputTokens": 99, "seed": 7}
        return {f"generationConfig.{key}": value for key, value in config.items()} | {"min_p": 0.1}
    if provider == "ollama":
        options = {"temperature": 0.5, "num_predict": 99, "seed": 7, "min_p": 0.1}
        return {f"options.{key}": value for key, value in options.items()} | {"stream": stream}
    if provider == "dashscope" and major == 1:  # a header requests the stream
        given = {"temperature": 0.5, "max_tokens": 99, "seed": 7, "min_p": 0.1}
        return {f"parameters.{key}": value for key, value in given.items()}
    # AgentScope 2.x uses the newer of OpenAI's two names.
    limit = "max_completion_tokens" if (provider, major) == ("openai", 2) else "max_tokens"
    return {"temperature": 0.5, limit: 99, "stream": stream, **_UNUSUAL[provider]}


def _at(body: Any, place: str) -> Any:
    for key in place.split("."):
        body = body.get(key) if isinstance(body, Mapping) else None
    return body
