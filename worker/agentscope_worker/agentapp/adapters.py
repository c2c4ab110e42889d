"""Protocol adapters: what adds the routes of another protocol to an app, and their configuration.

An adapter gets the app at its start, and `func`, whose stream of events answers a request.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

log = logging.getLogger(__name__)


class ProtocolAdapter(ABC):
    def __init__(self, **kwargs: Any) -> None:
        self._kwargs = kwargs

    @abstractmethod
    def add_endpoint(self, app: Any, func: Callable[..., Any], **kwargs: Any) -> Any:
        """Add routes to `app`, a FastAPI application."""


class AGUIAdaptorConfig(BaseModel):
    route_path: str = "/ag-ui"


@dataclass
class A2ATransportsProperties:
    host: str | None = None
    port: int | None = None
    path: str | None = None
    support_tls: bool | None = False
    extra: dict[str, Any] = field(default_factory=dict)
    transport_type: str = "JSONRPC"


class A2ARegistry(ABC):
    """Registers the agent card of an app with a service for discovery."""

    @abstractmethod
    def registry_name(self) -> str: ...

    @abstractmethod
    def register(
        self, agent_card: Any, a2a_transports_properties: list[A2ATransportsProperties] | None = None
    ) -> None: ...


class NacosRegistry(A2ARegistry):
    """Not available: its constructor says what to do instead."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            "NacosRegistry is not part of the AgentApp of agentscope-supervisor: derive a class from "
            "A2ARegistry that registers the agent card with your client of Nacos, and pass it as "
            "AgentCardWithRuntimeConfig(registry=…)"
        )

    def registry_name(self) -> str:
        return "nacos"

    def register(
        self, agent_card: Any, a2a_transports_properties: list[A2ATransportsProperties] | None = None
    ) -> None: ...


class AgentCardWithRuntimeConfig(BaseModel):
    """`agent_card`: fields of the card. Timeouts are in seconds. `host` and `port` of agentscope-runtime are
    ignored: the card names the address at which the client has reached it."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="allow")

    agent_card: Any = None
    host: str | None = None
    port: int = 8080
    registry: list[A2ARegistry] | None = None
    task_timeout: int | None = 60
    task_event_timeout: int | None = 10
    wellknown_path: str | None = "/.well-known/agent-card.json"

    @field_validator("registry", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return value if value is None or isinstance(value, list) else [value]


def extract_a2a_config(a2a_config: AgentCardWithRuntimeConfig | None = None) -> AgentCardWithRuntimeConfig:
    return a2a_config or AgentCardWithRuntimeConfig()
