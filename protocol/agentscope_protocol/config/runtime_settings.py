"""The sections of agentapp.yaml that workers read: what an App finds in `agentscope.runtime`. Pure.

Owns the keys of models, MCP servers, the session store, tracing and AgentScope. `settings` has the sections
that the supervisor reads, and the file as a whole.
"""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from agentscope_protocol.config.setting_types import (
    FreeMapping,
    Headers,
    HttpUrl,
    PositiveSeconds,
    RedisUrl,
    Secret,
    Section,
    Text,
)


class ModelSettings(Section):
    """`models.<name>`: one model of the project. The code reads it as `runtime.models.<name>`."""

    provider: Literal["openai", "anthropic", "dashscope", "gemini", "ollama"] = Field(
        description="The API that the model speaks."
    )
    model: Text = Field(description="The model's name at the provider.")
    api_key: Secret | None = Field(None, description="The provider's API key.")
    base_url: HttpUrl | None = Field(
        None, description="The base URL of the API. `null`: the provider's own.", repr=False
    )
    stream: bool = Field(True, description="Whether to request a stream from the provider.")
    light_stream: Literal["auto", "off"] = Field(
        "auto",
        description="`auto`: build the pieces of a stream without the type checks of the provider's client, "
        "where that gives the same objects. `off`: leave it to the client.",
    )
    generate_kwargs: FreeMapping = Field(
        {}, description="Sampling parameters such as `temperature` and `max_tokens`."
    )
    client_kwargs: FreeMapping = Field(
        {}, description="Arguments of the provider's client library.", repr=False
    )


class McpServerSettings(Section):
    """`mcp_servers.<name>`: an MCP server. Its tools are in `runtime.tools`."""

    url: HttpUrl = Field(description="The URL of the server.", repr=False)
    transport: Literal["sse", "streamable_http"] = Field("sse", description="The MCP transport.")
    headers: Headers = Field({}, description="Headers of each request. Values count as secrets.")
    timeout: PositiveSeconds = Field(30, description="Seconds to connect, and for each tool call.")
    sse_read_timeout: PositiveSeconds = Field(
        300, description="Seconds that the event stream may stay silent."
    )
    required: bool = Field(
        False, description="`true`: a worker becomes ready only when it is connected to this server."
    )


class SessionStoreSettings(Section):
    """`session`: the store behind `runtime.session`."""

    backend: Literal["json", "redis"] = Field(
        "json", description="`json`: files on disk. `redis`: a Redis that several machines can share."
    )
    save_dir: Text = Field(
        "./sessions", description="With `json`: the folder of the files, relative to the project."
    )
    redis_url: RedisUrl | None = Field(
        None, description="With `redis`: the URL of the Redis, required.", validate_default=True
    )

    @field_validator("redis_url")
    @classmethod
    def _needed_for_redis(cls, value: RedisUrl | None, info: ValidationInfo) -> RedisUrl | None:
        # A validator of the field, not of the section: it then runs together with the other checks.
        if value is None and info.data.get("backend") == "redis":
            raise ValueError("is required when session.backend is redis")
        return value


class TracingSettings(Section):
    """`tracing`: the export of spans. Without this section, no spans are recorded."""

    endpoint: HttpUrl = Field(
        "http://localhost:4318/v1/traces", description="The OTLP/HTTP endpoint for spans.", repr=False
    )


class AgentscopeSettings(Section):
    """`agentscope`: settings of AgentScope itself."""

    permission_mode: Literal["default", "accept_edits", "explore", "bypass", "dont_ask"] = Field(
        "bypass", description="AgentScope 2.x: the permission mode of tool calls. 1.x ignores it."
    )
