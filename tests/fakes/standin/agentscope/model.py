"""The models that the settings name; a test that asks a model needs the real ones."""

from typing import Any


class ChatModelBase:
    def __init__(self, **arguments: Any) -> None:
        raise NotImplementedError("the stand-in has no models: mark the test `agentscope`")

    async def __call__(self, messages: Any) -> Any:
        raise NotImplementedError

    async def generate_structured_output(self, messages: Any) -> Any:
        raise NotImplementedError


class AnthropicChatModel(ChatModelBase): ...


class DashScopeChatModel(ChatModelBase): ...


class GeminiChatModel(ChatModelBase): ...


class OllamaChatModel(ChatModelBase): ...


class OpenAIChatModel(ChatModelBase): ...
