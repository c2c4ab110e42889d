"""Which files are left out of an archive, and which secrets in plain text are found in agentapp.yaml."""

import pytest

from agentscope_supervisor.project.archive_rules import is_private_key, is_session, literal_secrets, why_not


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".git", "version control"),
        (".venv", "environment"),
        (".venv-v1", "environment"),
        ("node_modules", "environment"),
        ("__pycache__", "cache"),
        (".mypy_cache", "cache"),
        ("my_app.egg-info", "cache"),
        (".idea", "editor"),
        ("src", None),
        ("env.d", None),
        ("keys", None),
        (".env", None),  # only a file of this name is left out
    ],
)
def test_folders_are_left_out_by_name(name: str, reason: str | None) -> None:
    assert why_not(name, folder=True) == reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".env", "secret"),
        (".env.production", "secret"),
        ("prod.env", "secret"),
        ("server.key", "secret"),
        ("id_ed25519.old", "secret"),
        ("app.pyc", "cache"),
        (".git", "version control"),
        ("app.py", None),
        ("ca.pem", None),
        ("environment.yml", None),
        ("monkey.txt", None),
        ("__pycache__", None),
    ],
)
def test_files_are_left_out_by_name(name: str, reason: str | None) -> None:
    assert why_not(name, folder=False) == reason


def test_private_keys_are_recognised_by_their_first_line() -> None:
    assert is_private_key(b"-----BEGIN PRIVATE KEY-----\nMII")
    assert is_private_key(b"# mine\n-----BEGIN OPENSSH PRIVATE KEY-----\nb3B")
    assert is_private_key(b"-----BEGIN EC PRIVATE KEY-----\r\n")
    assert not is_private_key(b"-----BEGIN CERTIFICATE-----\nMII")
    assert not is_private_key(b"if line == '-----BEGIN PRIVATE KEY-----':")
    assert not is_private_key(b"")


def test_session_files_are_recognised_by_their_beginning() -> None:
    assert is_session(b'{"save":12,"format":"agentscope-supervisor session","version":1')
    assert is_session(b'{"save":12,"format": "agentscope-supervisor session", "version": 1')
    assert is_session(b'{"format":"agentscope-supervisor session","version":1')
    assert not is_session(b'{"name":"agentscope-supervisor session"}')
    assert not is_session(b'x = {"format":"agentscope-supervisor session"}')


SECRETS = """
models:
  main: {provider: openai, model: gpt-4, api_key: sk-1234567}
  spare:
    provider: openai
    model: gpt-4
    api_key: ${OPENAI_API_KEY}
    base_url: https://proxy.example.com/v1?api_key=abc
    generate_kwargs: {max_tokens: 100, stop: [key, token], logit_key: null}
    client_kwargs: {default_headers: {X-Api-Key: abc, X-Team: shop, Accept: "*/*"}, tokens: [one]}
mcp_servers:
  search: {url: "https://me:hunter2@mcp.example.com/sse", headers: {Authorization: "Bearer abc"}}
  other: {url: "https://mcp.example.com/sse?page=2", headers: {Authorization: "Bearer ${MCP}", Cookie: [a]}}
session: {backend: redis, redis_url: "redis://:hunter2@redis:6379/0"}
platform: {endpoint: "https://p.example.com", instance_id: shop, token: ""}
server: {auth_token: abc, principal: token}
"""


def test_secrets_in_plain_text_are_found_with_line_and_key() -> None:
    found = [(problem.line, problem.key) for problem in literal_secrets(SECRETS)]
    assert found == [
        (3, "models.main.api_key"),
        (8, "models.spare.base_url"),
        (10, "models.spare.client_kwargs.default_headers.X-Api-Key"),
        (12, "mcp_servers.search.url"),
        (12, "mcp_servers.search.headers.Authorization"),
        (13, "mcp_servers.other.headers.Cookie[0]"),
        (14, "session.redis_url"),
        (16, "server.auth_token"),
    ]
    assert "abc" not in str(literal_secrets(SECRETS))


def test_a_file_with_variables_only_has_no_secrets() -> None:
    assert (
        literal_secrets(
            "models: {a: {provider: ollama, model: m, api_key: '${KEY}', base_url: http://h:1/v1}}"
        )
        == []
    )
    assert literal_secrets("session: {backend: redis, redis_url: 'redis://redis:6379/0'}") == []
    assert literal_secrets("session: {backend: redis, redis_url: 'redis://:${PASSWORD}@redis/0'}") == []
    assert literal_secrets("") == []
