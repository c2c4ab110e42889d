"""The models that the settings name; a test that asks a model needs the real ones."""

from typing import Any


class _Model:
    def __init__(self, **arguments: Any) -> None:
        raise NotImplementedError("the stand-in has no models: mark the test `agentscope`")


class AnthropicChatModel(_Model): ...


class DashScopeChatModel(_Model): ...


class GeminiChatModel(_Model): ...


class OllamaChatModel(_Model): ...


class OpenAIChatModel(_Model): ...
