"""The secrets of a configuration that workers must not know."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from agentscope_protocol.config import supervisor_secrets
from agentscope_protocol.config.settings import Settings, dump, load, restore

FILE = """
models:
  main: {provider: openai, model: gpt-4, api_key: "${MODEL_KEY}", base_url: "http://x/?key=${URL_KEY}"}
mcp_servers:
  search: {url: "http://y/sse?key=${MCP_KEY}", headers: {Authorization: "Bearer ${SHARED}"}}
session: {backend: redis, redis_url: "redis://:${REDIS}@h"}
platform:
  endpoint: http://user:${USER_PART}@platform:9/api?key=${QUERY}
  instance_id: ${INSTANCE_ID}
  token: ${PLATFORM_TOKEN}
server: {host: "${HOST}", port: "${PORT}", auth_token: "${API_TOKEN}", console: "$${NO_VARIABLE}"}
"""
VALID = FILE.replace(', console: "$${NO_VARIABLE}"', "")
VALUES = {
    "MODEL_KEY": "model-key",
    "URL_KEY": "url-key",
    "MCP_KEY": "mcp-key",
    "SHARED": "shared-key",
    "REDIS": "redis-key",
    "USER_PART": "hush-user",
    "QUERY": "hush-query",
    "INSTANCE_ID": "i-7",
    "PLATFORM_TOKEN": "hush-platform",
    "HOST": "0.0.0.0",
    "PORT": "9000",
    "API_TOKEN": "hush-api",
}


def test_the_variables_of_the_supervisors_secrets_are_withheld() -> None:
    assert supervisor_secrets.variables(FILE) == {"API_TOKEN", "PLATFORM_TOKEN", "USER_PART", "QUERY"}


@pytest.mark.parametrize(
    "text",
    [
        "auth: {tokens: [{name: web, token: '${WEB}', scopes: [use]}]}",
        "server: {tls: {key: '${WEB}'}}",
        "webhooks: [{url: 'https://x', secret: '${WEB}'}]",
        "server: {auth_token: '${WEB}${WEB}'}",
    ],
)
def test_variables_in_any_key_of_the_supervisors_sections_are_withheld(text: str) -> None:
    """Also in keys that this release does not know: the file may be checked by another one."""
    assert supervisor_secrets.variables(text) == {"WEB"}


def test_a_variable_that_a_model_refers_to_as_well_stays() -> None:
    text = "server: {auth_token: '${KEY}'}\nmodels: {main: {provider: openai, model: m, api_key: '${KEY}'}}"
    assert supervisor_secrets.variables(text) == frozenset()


@pytest.mark.parametrize("text", ["", "[1]", "{", "server: ${X}"])
def test_a_file_without_secrets_or_with_errors_withholds_what_it_names(text: str) -> None:
    assert supervisor_secrets.variables(text) == ({"X"} if "X" in text else frozenset())


def test_the_snapshot_of_a_worker_has_no_secret_of_the_supervisor_and_everything_else() -> None:
    settings = load(VALID, source="agentapp.yaml", env=VALUES)
    snapshot = supervisor_secrets.removed(dump(settings))
    assert b"hush" in dump(settings)
    assert b"hush" not in snapshot
    seen = restore(snapshot)
    assert (seen.models, seen.mcp_servers, seen.session) == (
        settings.models,
        settings.mcp_servers,
        settings.session,
    )
    assert seen.server == settings.server.model_copy(update={"auth_token": None})
    assert seen.platform is not None
    assert (seen.platform.endpoint, seen.platform.instance_id) == ("http://platform:9/api", "i-7")


def test_sections_of_which_a_worker_gets_nothing_are_dropped_and_lists_are_searched() -> None:
    document = {
        "auth": {"tokens": [{"name": "web", "token": "hush"}]},
        "webhooks": [{"url": "https://x", "secret": "hush"}],
        "server": {"proxies": [{"token": "hush", "url": "https://hush@x/y?hush"}, 7], "port": 1},
        "models": {"main": {"api_key": "stays"}},
    }
    assert json.loads(supervisor_secrets.removed(json.dumps(document).encode())) == {
        "server": {"proxies": [{"url": "https://x/y"}, 7], "port": 1},
        "models": {"main": {"api_key": "stays"}},
    }


def secret_fields(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the paths of all fields that hold a secret."""
    for name, field in model.model_fields.items():
        for kind in [field.annotation, *getattr(field.annotation, "__args__", ())]:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from secret_fields(kind, (*path, name))
            elif "SecretStr" in str(kind):
                yield (*path, name)


def test_every_secret_of_a_section_of_the_supervisor_is_removed() -> None:
    """A new key with a secret must be one of those that are removed."""
    ours = [path for path in secret_fields(Settings) if path[0] in supervisor_secrets.SECTIONS]
    assert ("server", "auth_token") in ours
    for path in ours:
        document: Any = SecretStr("hush").get_secret_value()
        for key in reversed(path):
            document = {key: document}
        assert b"hush" not in supervisor_secrets.removed(json.dumps(document).encode()), path
