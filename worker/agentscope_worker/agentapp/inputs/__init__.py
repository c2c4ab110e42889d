"""From the messages of a request to `msgs`, the messages of a framework: one module for each framework.

Only these modules import a framework, and only when a request for it comes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from agentscope_worker.agentapp.schemas import Message

Converters = Mapping[str, Callable[[Message], Any]]
"""By the type of a message: what converts it in place of the framework's module."""

_MODULES: Final = ("agentscope", "agno", "autogen", "langgraph")


def messages_of(framework: str, messages: Sequence[Message], converters: Converters | None = None) -> Any:
    """The messages of a request as the framework takes them.

    Raises: ValueError for a message that the framework cannot represent.
    """
    if framework not in _MODULES:
        return list(messages)
    module = importlib.import_module(f"{__name__}.{framework}")
    converters = converters or {}
    converted = []
    for message in messages:
        custom = converters.get(message.type)
        converted.append(module.convert(message) if custom is None else custom(message))
    return module.joined(messages, converted) if framework == "agentscope" else converted
