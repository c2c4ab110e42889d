"""What the settings of a slot mean to a provider, where both majors of AgentScope ask the same.

It owns no class of AgentScope; `agentscope1` and `agentscope2` build their models with it.
"""

from typing import Any

from agentscope_protocol.settings import ModelSettings

_BESIDE_OPTIONS = ("format", "keep_alive", "think", "options")  # of a request to Ollama


def api_key(settings: ModelSettings) -> str:
    """The key of a slot; a server at a `base_url` of the author's own may need none.

    Raises: ValueError when the provider itself is asked without a key.
    """
    if settings.api_key is not None:
        return settings.api_key.get_secret_value()
    if settings.base_url is None:
        raise ValueError("api_key is missing")
    return "none"


def gemini_client(settings: ModelSettings) -> dict[str, Any]:
    """Arguments of Google's client, which takes a base URL among its HTTP options only."""
    client: dict[str, Any] = dict(settings.client_kwargs)
    if settings.base_url:
        client["http_options"] = {**client.get("http_options", {}), "base_url": settings.base_url}
    return client


def ollama_request(settings: ModelSettings) -> dict[str, Any]:
    """Arguments of a request to Ollama, which takes sampling parameters among its options only."""
    given: dict[str, Any] = dict(settings.generate_kwargs)
    request = {key: given.pop(key) for key in _BESIDE_OPTIONS if key in given}
    if "max_tokens" in given:
        given["num_predict"] = given.pop("max_tokens")
    options = {**request.pop("options", {}), **given}
    return {**request, "options": options} if options else request
