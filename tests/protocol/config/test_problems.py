"""The error report: format, order, completeness, and that it contains no secrets."""

import pytest
from pydantic import BaseModel

from agentscope_protocol.config.problems import (
    SECRET_KEYS,
    Problem,
    dotted,
    section_model,
    translate,
)
from agentscope_protocol.config.settings import Settings, SettingsError, load

FILE = """\
models:
  main:
    provider: opnai
    api_key: ${NOPE}
    base_url: ftp://me:pw@host/?key=k
server:
  port: 1
  port: 99999
session: {backend: redis}
1: x
"""


def report(text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(text, source="agentapp.yaml", env={"SECRET": "s3cret value"})
    assert caught.value.__context__ is None  # pydantic's error holds the values
    return str(caught.value)


def test_all_problems_are_reported_in_line_order() -> None:
    assert report(FILE).splitlines() == [
        "agentapp.yaml:2: models.main.model: is required",
        "agentapp.yaml:3: models.main.provider: 'opnai' is not allowed; use one of openai, anthropic,"
        " dashscope, gemini, ollama (did you mean 'openai'?)",
        "agentapp.yaml:4: models.main.api_key: the environment variable NOPE is not set",
        "agentapp.yaml:5: models.main.base_url: 'ftp://…@host/?…' is not allowed;"
        " must be a URL that starts with http:// or https://",
        "agentapp.yaml:8: server.port: 99999 is not allowed; must be at most 65535",
        "agentapp.yaml:8: server.port: is defined twice; first on line 7",
        "agentapp.yaml:9: session.redis_url: is required when session.backend is redis",
        "agentapp.yaml:10: 1: a key must be text; put it in quotes",
    ]  # fmt: skip


def test_a_value_with_a_failed_substitution_is_reported_once() -> None:
    assert report("server:\n  port: ${X}") == (
        "agentapp.yaml:2: server.port: the environment variable X is not set"
    )


@pytest.mark.parametrize(
    "text",
    [
        "server: {auth_token: 's3cret value'}",
        "server: {auth_token: '${SECRET}'}",
        "server: {auth_token: ['s3cret value']}",
        "server: {auth_tokn: 's3cret value'}",
        "platform: {endpoint: http://x, instance_id: i, token: 's3cret value'}",
        "session: {redis_url: 's3cret value'}",
        "models: 's3cret value'",
        "models: {main: 's3cret value'}",
        'models: {main: {provider: openai, model: m, api_key: "s3cret value\\n"}}',
        "models: {main: {provider: openai, model: m, api_key: '${S:-s3cret value}'}}",
        "models: {main: {provider: openai, model: m, client_kwargs: 's3cret value'}}",
        'mcp_servers: {x: {url: http://x, headers: {A: "s3cret value\\n"}}}',
        "mcp_servers: {x: {url: http://x, headers: 's3cret value'}}",
        "mcp_servers: {x: {url: 'ws://x?key=s3cret value'}}",
        "mcp_servers: {x: {url: 'ws://s3cret value@x'}}",
    ],
)
def test_the_report_contains_no_secrets(text: str) -> None:
    assert "s3cret" not in report(text)


def test_secret_keys_match_the_secret_fields() -> None:
    secret = set()
    for top in Settings.model_fields.values():
        section = section_model(top.annotation)
        if section is None:  # a key without a section
            continue
        secret |= {n for n, field in section.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert secret == SECRET_KEYS - {"client_kwargs"}


def test_each_problem_is_one_line_for_any_input() -> None:
    assert report('"a\\nb": 1').startswith("agentapp.yaml:1: 'a\\nb': is not a known key")
    assert "'x\\ny' is not allowed" in report('server: {port: "x\\ny"}')


@pytest.mark.parametrize(
    "path, text",
    [
        ((), ""),
        (("a", "b"), "a.b"),
        (("a", 0, "b", 1), "a[0].b[1]"),
        (("a", "x\n"), "a.'x\\n'"),
        (("k" * 100,), "k" * 79 + "…"),
    ],
)
def test_dotted_formats_a_path(path: tuple[str | int, ...], text: str) -> None:
    assert dotted(path) == text


def test_missing_location_parts_are_omitted() -> None:
    error = SettingsError("f", [Problem(None, "", "m"), Problem(None, "k", "m"), Problem(3, "", "m")])
    assert str(error) == "f: m\nf: k: m\nf:3: m"


def test_an_error_without_a_message_of_its_own_has_a_default_message() -> None:
    class Odd(BaseModel):
        when: complex

    with pytest.raises(ValueError, match="when") as caught:
        Odd.model_validate({"when": "x"})
    (problem,) = translate(caught.value, Odd, {})  # type: ignore[arg-type]
    assert problem == Problem(None, "when", "'x' is not allowed; has an unsupported form")
