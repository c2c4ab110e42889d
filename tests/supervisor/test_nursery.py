"""What a zygote is told to import."""

import pytest

from agentscope_protocol.settings import load
from agentscope_supervisor.nursery import parts_of

SLOT = "provider: {}, model: m, api_key: secret"


@pytest.mark.parametrize(
    "text, parts",
    [
        ("", []),
        (f"models: {{a: {{{SLOT.format('openai')}}}, b: {{{SLOT.format('openai')}}}}}", ["provider:openai"]),
        (
            f"models: {{a: {{{SLOT.format('ollama')}}}, b: {{{SLOT.format('gemini')}}}}}",
            ["provider:gemini", "provider:ollama"],
        ),
        ("mcp_servers: {s: {url: 'http://localhost:1/sse'}}", ["mcp"]),
        ("session: {backend: redis, redis_url: 'redis://:secret@localhost/0'}", ["redis"]),
        ("tracing: {endpoint: 'http://localhost:4318/v1/traces'}", ["tracing"]),
    ],
)
def test_only_what_the_settings_use_is_named_and_no_secret(text: str, parts: list[str]) -> None:
    assert parts_of(load(text, source="agentapp.yaml", env={})) == parts
