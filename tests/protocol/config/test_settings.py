"""agentapp.yaml settings: defaults, bounds, rules between keys, snapshot, schema, and example files."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from agentscope_protocol.config.settings import (
    ModelSettings,
    ServerSettings,
    Settings,
    SettingsError,
    SupervisorSettings,
    chosen_keys,
    dump,
    json_schema,
    load,
    load_auth_token,
    load_slots,
    restore,
)

Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the tests spend most of their time dumping
CONFIGS = Path(__file__).parents[3] / "configs"
SHA256_OF_T = "e3b98a4da31a127d4bde6e43033f66ba274cab0eb7eb1c70ec41402bf6273dd8"
ENV = {
    "OPENAI_API_KEY": "sk-1",
    "MCP_TOKEN": "mcp-1",
    "REDIS_URL": "redis://:pw@localhost",
    "INSTANCE_ID": "i-1",
    "PLATFORM_TOKEN": "p-1",
    "API_TOKEN": "a-1",
    "WEB_TOKEN": "w-1",
}
MODEL = {"provider": "openai", "model": "gpt-4"}


def read(data: object, **env: str) -> Settings:
    return load(yaml.dump(data, Dumper=Dumper), source="agentapp.yaml", env=env)


def refusal(data: object, **env: str) -> str:
    """The error report for the data, without file and line."""
    with pytest.raises(SettingsError) as caught:
        read(data, **env)
    return "\n".join(f"{problem.key}: {problem.message}" for problem in caught.value.problems)


def value_at(settings: Settings, path: str) -> Any:
    value: Any = settings
    for part in path.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


def nested(path: str, value: object) -> dict[str, Any]:
    """Data with one key and the keys that it requires."""
    section, *names = path.split(".")
    beside: dict[str, dict[str, Any]] = {
        "models": MODEL,
        "mcp_servers": {"url": "http://x"},
        "platform": {"endpoint": "http://p", "instance_id": "i"},
    }
    keys = beside.get(section, {}) | {names[-1]: value}
    return {section: {names[0]: keys} if len(names) == 2 else keys}


def test_proxies_are_networks_and_a_prefix_is_a_path() -> None:
    server = load(
        "server: {trusted_proxies: [127.0.0.1, 10.0.0.0/8], prefix: /_own}", source="f", env={}
    ).server
    assert (server.trusted_proxies, server.prefix) == (["127.0.0.1/32", "10.0.0.0/8"], "/_own")
    assert load("server: {prefix: ''}", source="f", env={}).server.prefix == ""
    with pytest.raises(SettingsError, match="must be an IP address or a network"):
        load("server: {trusted_proxies: [10.0.0.1/8]}", source="f", env={})


@pytest.mark.parametrize("name", ["main:app", "service.main:holder.app_2"])
def test_an_app_is_named_by_its_module(name: str) -> None:
    assert load(f"app: {name}", source="f", env={}).app == name


@pytest.mark.parametrize("name", ["main", "main:", ":app", "a b:c", "2:a", "'main:app '", "main:ä"])
def test_another_name_of_an_app_is_rejected(name: str) -> None:
    with pytest.raises(SettingsError, match="must be module:name, such as main:app"):
        load(f"app: {name!r}" if name.endswith(":") else f"app: {name}", source="f", env={})


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "server:\nmodels:\nplatform:\n"])
def test_an_empty_file_or_section_yields_the_defaults(text: str) -> None:
    settings = load(text, source="f", env={})
    assert settings == Settings()
    assert (settings.models, settings.platform, settings.tracing) == ({}, None, None)
    assert chosen_keys(settings) == frozenset()


def test_defaults_match_the_example_file() -> None:
    example = yaml.safe_load((CONFIGS / "agentapp.full.yaml").read_text())
    settings = Settings.model_validate(nested("platform.token", None) | {"tracing": {}})
    for section, names in {
        "session": ("backend", "save_dir"),
        "platform": ("heartbeat_interval",),
        "tracing": ("endpoint",),
        "server": ServerSettings.model_fields.keys() - {"auth_token"},
        "sessions": type(settings.sessions).model_fields,
        "supervisor": SupervisorSettings.model_fields,
        "reload": (),
        "agentscope": ("permission_mode",),
    }.items():
        for name in names:
            assert value_at(settings, f"{section}.{name}") == example[section][name], name


def test_the_full_example_sets_every_key() -> None:
    settings = load((CONFIGS / "agentapp.full.yaml").read_text(), source="f", env=ENV)
    chosen = chosen_keys(settings)
    names = {"models": "models.main", "mcp_servers": "mcp_servers.search"}
    definitions = json_schema()["$defs"]
    assert isinstance(definitions, dict)
    every = set()
    for section, schema in json_schema()["properties"].items():  # type: ignore[attr-defined]
        found = [definitions[name]["properties"] for name in definitions if f"/{name}" in json.dumps(schema)]
        every |= {f"{names.get(section, section)}.{k}" for k in found[0]} if found else {section}
    assert chosen == every


def test_the_minimal_example_sets_one_model() -> None:
    settings = load((CONFIGS / "agentapp.minimal.yaml").read_text(), source="f", env=ENV)
    assert chosen_keys(settings) == {"models.main.provider", "models.main.model", "models.main.api_key"}
    key = settings.models["main"].api_key
    assert key is not None
    assert key.get_secret_value() == "sk-1"


@pytest.mark.parametrize(
    "path, given, value",
    [
        ("server.port", "${P}", 7),
        ("server.port", 0, 0),
        ("server.port", 65535, 65535),
        ("server.request_timeout", 0, 0.0),
        ("server.request_timeout", "${P}", 7.0),
        ("server.metrics", "${NO}", False),
        ("server.console", True, "on"),
        ("server.console", False, "off"),
        ("server.console", "auto", "auto"),
        ("server.principal", "metadata.user_id", "metadata.user_id"),
        ("server.max_turns_per_principal", None, None),
        ("server.hosts", None, []),
        (
            "server.hosts",
            ["Agents.internal", "10.0.0.7", "FD00::7"],
            ["agents.internal", "10.0.0.7", "fd00::7"],
        ),
        (
            "server.cors_origins",
            ["https://App.example.com:443", "http://localhost:3000", "http://a:80", "app://x"],
            ["https://app.example.com", "http://localhost:3000", "http://a", "app://x"],
        ),
        ("protocols.a2a", False, False),
        ("protocols.a2a", "${NO}", False),
        ("protocols.a2a", True, {}),
        ("protocols.a2a", None, {}),
        ("protocols.a2a", {"name": "Friday"}, {"name": "Friday"}),
        ("sessions.max_queue", 0, 0),
        ("sessions.on_busy", "latest", "latest"),
        ("supervisor.workers", "auto", "auto"),
        ("supervisor.workers", "${P}", 7),
        ("supervisor.workers", 256, 256),
        ("supervisor.preload", True, True),
        ("supervisor.preload", "${NO}", False),
        ("supervisor.preload", "auto", "auto"),
        ("supervisor.python", ".venv/bin/python", ".venv/bin/python"),
        ("supervisor.umask", "0027", "0027"),
        ("supervisor.umask", "077", "077"),
        ("supervisor.umask", None, None),
        ("models.main.generate_kwargs", None, {}),
        ("models.main.generate_kwargs", {"stop": ["a", 1, {"b": None}]}, {"stop": ["a", 1, {"b": None}]}),
        ("models.模型.stream", False, False),
        ("mcp_servers._x.transport", "streamable_http", "streamable_http"),
        ("mcp_servers.amap-maps.transport", "sse", "sse"),
        ("mcp_servers.import.transport", "sse", "sse"),
        ("mcp_servers.x.headers", {"X-A": "${P}"}, {"X-A": SecretStr("7")}),
        ("models.main.base_url", "http://[::1]:80/v1", "http://[::1]:80/v1"),
        ("session.redis_url", "unix:///run/redis", SecretStr("unix:///run/redis")),
        ("platform.token", "abc", SecretStr("abc")),
    ],
)
def test_a_valid_value_is_accepted(path: str, given: object, value: object) -> None:
    settings = read(nested(path, given), P="7", NO="false")
    assert value_at(settings, path) == value
    assert type(value_at(settings, path)) is type(value)
    assert path in chosen_keys(settings)


CARD = "must be true, false, or a mapping with texts for name, description, version, url"
NUMBER, WHOLE = "must be a number", "must be a whole number"
VISIBLE = "must be one or more visible ASCII characters, without spaces"
HTTP = "must be a URL that starts with http:// or https://"
SERVER_NAME = "the name must be letters, digits, _ and -, and must not start with a digit or -"
IDENTIFIER = "the name must be an identifier: letters, digits and _, and no digit first"
REDIS = "must be a URL that starts with redis://, rediss:// or unix://"
PREFIX = "must be a path such as /_supervisor, without a slash at its end"
UMASK = 'must be 3 or 4 octal digits in quotes, such as "0027"'
LIST = "must be a list"
WORKERS = "must be a whole number from 1 to 256, or auto"
TEXT = "must be text, in quotes where YAML reads it as something else"
PRINTABLE = "must be printable ASCII without line breaks, because it is sent in a header"
UNKNOWN = f"is not a known key; use one of {', '.join(Settings.model_fields)}"
TAKEN = "the name must not start with _ and must not be one of get, items, keys, values"


@pytest.mark.parametrize(
    "path, given, message",
    [
        ("server.port", -1, "-1 is not allowed; must be at least 0"),
        ("server.port", 65536, "65536 is not allowed; must be at most 65535"),
        ("server.port", "x" * 99, f"'{'x' * 79}…' is not allowed; {WHOLE}"),
        ("server.port", 1.5, f"1.5 is not allowed; {WHOLE}"),
        ("server.port", True, f"true is not allowed; {NUMBER}"),
        ("server.port", None, f"null is not allowed; {WHOLE}"),
        ("server.port", [1], f"a list is not allowed; {WHOLE}"),
        ("server.port", {"a": 1}, f"a mapping is not allowed; {WHOLE}"),
        ("server.header_timeout", 0, "0 is not allowed; must be more than 0"),
        ("server.request_timeout", -0.5, "-0.5 is not allowed; must be at least 0"),
        ("server.request_timeout", "nan", "'nan' is not allowed; must be a finite number"),
        ("server.request_timeout", 1e300, "1e+300 is not allowed; must be at most 31536000"),
        ("server.request_timeout", "ten", f"'ten' is not allowed; {NUMBER}"),
        ("protocols.a2a", {"nam": "x"}, f"a mapping is not allowed; {CARD}"),
        ("protocols.a2a", {"name": 3}, f"a mapping is not allowed; {CARD}"),
        ("protocols.a2a", "x", f"'x' is not allowed; {CARD}"),
        ("server.metrics", "maybe", "'maybe' is not allowed; must be true or false"),
        ("server.metrics", [], "a list is not allowed; must be true or false"),
        ("server.host", "", "'' is not allowed; must not be empty"),
        ("server.host", "h" * 5000, f"'{'h' * 79}…' is not allowed; must be at most 4096 characters"),
        ("server.host", 1, f"1 is not allowed; {TEXT}"),
        ("server.console", "no way", "'no way' is not allowed; use one of auto, on, off"),
        ("server.prefix", "/a/", f"'/a/' is not allowed; {PREFIX}"),
        ("server.principal", "metadata.", "'metadata.' is not allowed; must be token or metadata.<key>"),
        ("supervisor.umask", 0o27, f"23 is not allowed; {UMASK}"),
        ("supervisor.umask", "0028", f"'0028' is not allowed; {UMASK}"),
        ("supervisor.umask", "27", f"'27' is not allowed; {UMASK}"),
        ("supervisor.umask", "7777", f"'7777' is not allowed; {UMASK}"),
        ("server.hosts", "localhost", f"'localhost' is not allowed; {LIST}"),
        ("server.cors_origins", {"a": 1}, f"a mapping is not allowed; {LIST}"),
        ("server.auth_token", "", VISIBLE),
        ("server.auth_token", "a b", VISIBLE),
        ("platform.token", "a\n", VISIBLE),
        ("platform.endpoint", "platform", f"'platform' is not allowed; {HTTP}"),
        ("platform.endpoint", "http://a b", f"'http://a b' is not allowed; {HTTP}"),
        ("platform.endpoint", "http://[x", f"'http://[x' is not allowed; {HTTP}"),
        ("tracing.endpoint", "http://x:70000", f"'http://x:70000' is not allowed; {HTTP}"),
        ("models.main.base_url", "http://", f"'http://' is not allowed; {HTTP}"),
        ("session.redis_url", "http://:pw@x", REDIS),
        ("session.redis_url", 5, TEXT),
        (
            "sessions.on_busy",
            "que",
            "'que' is not allowed; use one of queue, reject, interrupt, latest (did you mean 'queue'?)",
        ),
        ("supervisor.workers", 0, f"0 is not allowed; {WORKERS}"),
        ("supervisor.workers", 257, f"257 is not allowed; {WORKERS}"),
        ("supervisor.workers", True, f"true is not allowed; {WORKERS}"),
        ("supervisor.workers", "many", f"'many' is not allowed; {WORKERS}"),
        ("supervisor.preload", "yes!", "'yes!' is not allowed; use one of auto, true, false"),
        ("mcp_servers.x.transport", "stdio", "'stdio' is not allowed; use one of sse, streamable_http"),
        ("mcp_servers.x.headers", "A: b", "must be a mapping"),
        ("models.main.generate_kwargs", 1, "1 is not allowed; must be a mapping"),
        ("models.main.generate_kwargs", "t", "text is not allowed; must be a mapping"),
        ("models.main.api_key", "sk\n1", PRINTABLE),
        (
            "models.main.api_kye",
            "sk-1",
            f"is not a known key; use one of {', '.join(ModelSettings.model_fields)}"
            " (did you mean 'api_key'?)",
        ),
        ("tracing.zzz", 1, "is not a known key; use one of endpoint"),
    ],
)
def test_an_invalid_value_is_rejected(path: str, given: object, message: str) -> None:
    assert refusal(nested(path, given)) == f"{path}: {message}"


@pytest.mark.parametrize(
    "data, report",
    [
        ({"models": {"a-b": MODEL}}, f"models.a-b: {IDENTIFIER}"),
        ({"models": {"class": MODEL}}, f"models.class: {IDENTIFIER}"),
        ({"models": {"_x": MODEL}}, f"models._x: {TAKEN}"),
        ({"models": {"keys": MODEL}}, f"models.keys: {TAKEN}"),
        ({"models": {"main": "sk-1"}}, "models.main: text is not allowed; must be a mapping"),
        ({"models": {"main": {"model": "m"}}}, "models.main.provider: is required"),
        ({"mcp_servers": {"1x": {"url": "http://x"}}}, f"mcp_servers.1x: {SERVER_NAME}"),
        ({"mcp_servers": {"-x": {"url": "http://x"}}}, f"mcp_servers.-x: {SERVER_NAME}"),
        ({"mcp_servers": {"a b": {"url": "http://x"}}}, f"mcp_servers.a b: {SERVER_NAME}"),
        ({"mcp_servers": {"x": {}}}, "mcp_servers.x.url: is required"),
        (
            nested("mcp_servers.x.headers", {"A B": "s"}),
            "mcp_servers.x.headers.A B: must be a valid HTTP header name",
        ),
        (
            nested("server.hosts", ["localhost", "a:80"]),
            "server.hosts[1]: 'a:80' is not allowed; must be a host name or an IP address, without a port",
        ),
        *(
            (
                nested("server.cors_origins", [origin]),
                f"server.cors_origins[0]: '{origin}' is not allowed; "
                "must be an origin such as https://app.example.com, without a path",
            )
            for origin in ("*", "app.example.com", "https://a/", "https://*.a", "https://a b")
        ),
        ({"platform": {}}, "platform.endpoint: is required\nplatform.instance_id: is required"),
        (
            {"session": {"backend": "redis", "save_dir": ""}},
            "session.redis_url: is required when session.backend is redis\n"
            "session.save_dir: '' is not allowed; must not be empty",
        ),
        (
            {
                "auth": {
                    "tokens": [{"name": "a"}, {"name": "a b", "token": "t"}, {"name": "b", "token": "t t"}]
                }
            },
            "auth.tokens[0]: must have exactly one of token, token_file and token_sha256\n"
            f"auth.tokens[1].name: 'a b' is not allowed; {SERVER_NAME}\n"
            "auth.tokens[2].token: must be one or more visible ASCII characters, without spaces",
        ),
        (
            {"auth": {"tokens": [{"name": "a", "token": "t"}, {"name": "a", "token": "u"}]}},
            "auth: two tokens have the name 'a'",
        ),
        (
            {"auth": {"tokens": [{"name": "a", "token": "t"}, {"name": "b", "token_sha256": SHA256_OF_T}]}},
            "auth: 'a' and 'b' have the same token",
        ),
        (
            nested("auth.tokens", [{"name": "a", "token": "t", "scopes": ["use", "use"]}]),
            "auth.tokens[0].scopes: must not repeat a scope",
        ),
        ({"sesion": {}}, f"sesion: {UNKNOWN} (did you mean 'session'?)"),
        ({"port": 1}, f"port: {UNKNOWN} ('port' belongs under 'server')"),
        ({"server": 8080}, "server: 8080 is not allowed; must be a mapping"),
    ],
)
def test_invalid_names_and_missing_or_unknown_keys_are_rejected(data: object, report: str) -> None:
    assert refusal(data) == report


def test_patterns_are_a_list_that_may_be_empty() -> None:
    settings = read({"reload": {"include": ["*.md"], "exclude": None}})
    assert (settings.reload.include, settings.reload.exclude) == (("*.md",), ())
    assert restore(dump(settings)) == settings
    assert refusal({"reload": {"include": "*.md"}}) == "reload.include: '*.md' is not allowed; must be a list"


def test_values_are_immutable() -> None:
    with pytest.raises(ValidationError):
        Settings().server.port = 1  # type: ignore[misc]


def test_a_snapshot_keeps_values_secrets_and_chosen_keys() -> None:
    settings = load((CONFIGS / "agentapp.full.yaml").read_text(), source="f", env=ENV)
    back = restore(dump(settings))
    assert back == settings
    assert chosen_keys(back) == chosen_keys(settings)
    assert back.mcp_servers["search"].headers["Authorization"].get_secret_value() == "Bearer mcp-1"


def test_a_snapshot_includes_command_line_changes() -> None:
    server = ServerSettings(host="0.0.0.0").model_copy(update={"port": 9000})
    settings = Settings().model_copy(update={"server": server})
    assert chosen_keys(settings) == {"server.host", "server.port"}
    assert restore(dump(settings)).server == server


@pytest.mark.parametrize(
    "snapshot, report",
    [
        (b"\xff", "settings snapshot: is not valid JSON"),
        (b"{", "settings snapshot: is not valid JSON"),
        (b"[" * 100_000, "settings snapshot: is not valid JSON"),
        (b"[]", "settings snapshot: a list is not allowed; must be a mapping"),
        (b'{"server": {"host": "\\ud800"}}', "settings snapshot: is not valid JSON"),
        (b'{"tracing": {"x": 1}}', "settings snapshot: tracing.x: is not a known key; use one of endpoint"),
    ],
)
def test_an_invalid_snapshot_is_rejected(snapshot: bytes, report: str) -> None:
    with pytest.raises(SettingsError) as caught:
        restore(snapshot)
    assert str(caught.value) == report


SLOTS = """\
models:
  main: {provider: openai, model: m, api_key: "${NOT_SET}", stream: "${NOT_SET}"}
  judge: {provider: "${PROVIDER}"}
server: {port: "${NOT_SET}", prot: 1}
"""


def test_load_slots_needs_no_secrets_and_ignores_other_sections() -> None:
    assert load_slots(SLOTS, source="f", env={"PROVIDER": "gemini"}) == {"main": "openai", "judge": "gemini"}
    assert load_slots("", source="f", env={}) == load_slots("models:", source="f", env={}) == {}


@pytest.mark.parametrize(
    "text, report",
    [
        ("models: {a: {model: m}}", "f:1: models.a.provider: is required"),
        ("models: {_a: {provider: openai}}", "f:1: models._a: the name must not start with _"),
        ("models: {a: openai}", "f:1: models.a: text is not allowed; must be a mapping"),
        ("models: [a]", "f:1: models: a list is not allowed; must be a mapping"),
        ("models: {a: {provider: '${NO}'}}", "f:1: models.a.provider: '' is not allowed; use one of openai"),
        ("models: {a: {provider: openai}}\nmodels: {}", "f:2: models: is defined twice; first on line 1"),
        ("models: [", "f:1: is not valid YAML"),
    ],
)
def test_load_slots_reports_invalid_slots(text: str, report: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_slots(text, source="f", env={})
    assert str(caught.value).startswith(report)


@pytest.mark.parametrize(
    "text, token, unset",
    [
        ("server: {auth_token: 'a-${A}'}\nmodels: {m: {api_key: '${NO}'}}", "a-1", []),
        ("server: {auth_token: '${NO}'}", None, ["NO"]),
        ("server: {port: 1}\nnonsense: 1", None, []),
        ("server: {auth_token: [1]}", None, []),
        ("auth: {tokens: [{scopes: [read], token: r}, {token: '${NO}'}]}", None, ["NO"]),
        ("auth: {tokens: [{scopes: [read], token: r}, {token: t}, 1]}", "t", []),
        ("server: {auth_token: s}\nauth: {tokens: [{token: t}]}", "s", []),
        ("auth: {tokens: 1}", None, []),
        ("auth: {tokens: [{scopes: [read], token: r}]}", None, []),
        ("server: 8080", None, []),
        ("", None, []),
        ("server: {", None, []),
    ],
)
def test_load_auth_token_needs_no_other_variable(text: str, token: str | None, unset: list[str]) -> None:
    assert load_auth_token(text, env={"A": "1"}) == (token, unset)


def test_repr_and_str_hide_secrets() -> None:
    settings = load((CONFIGS / "agentapp.full.yaml").read_text(), source="f", env=ENV)
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        for secret in ("sk-1", "mcp-1", ":pw@", "p-1", "a-1"):
            assert secret not in shown
    with pytest.raises(ValidationError) as caught:
        ServerSettings.model_validate({"auth_token": "two words"})
    assert "two words" not in str(caught.value)


@pytest.mark.parametrize("name", ["agentapp.minimal.yaml", "agentapp.full.yaml"])
def test_the_schema_accepts_the_examples(name: str) -> None:
    data = yaml.safe_load((CONFIGS / name).read_text())
    jsonschema.Draft202012Validator(json_schema()).validate(data)


@pytest.mark.parametrize(
    "data, valid",
    [
        ({"server": {"port": "${PORT}", "metrics": "${M}", "console": True}}, True),
        ({"server": None, "models": None}, True),
        ({"supervisor": {"workers": "${N}", "preload": "${P}"}}, True),
        ({"sessions": {"on_busy": "${B}"}}, True),
        ({"server": {"port": "http"}}, False),
        ({"server": {"prot": 1}}, False),
        ({"models": {"_x": MODEL}}, False),
        ({"models": {"main": {"provider": "opnai", "model": "m"}}}, False),
    ],
)
def test_the_schema_accepts_variables_in_place_of_values(data: object, valid: bool) -> None:
    assert jsonschema.Draft202012Validator(json_schema()).is_valid(data) is valid


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["${A}", "$${A}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    sorted({key for model in json_schema()["$defs"].values() for key in model.get("properties", ())})  # type: ignore[attr-defined]
)
FILES = st.dictionaries(
    st.sampled_from(sorted(Settings.model_fields)),
    JSON
    | st.dictionaries(KEYS, JSON, max_size=4)
    | st.dictionaries(st.text(max_size=5), st.dictionaries(KEYS, JSON, max_size=4), max_size=2),
    max_size=3,
)


@given(FILES)
@profile(deadline=None, max_examples=100)
def test_any_structure_is_accepted_or_rejected_and_survives_the_snapshot(data: object) -> None:
    text = yaml.dump(data, Dumper=Dumper)
    try:
        settings = load(text, source="f", env={"A": "1"})
    except SettingsError:
        return
    assert restore(dump(settings)) == settings
    assert chosen_keys(restore(dump(settings))) == chosen_keys(settings)


@given(st.dictionaries(st.text(), JSON))
@profile(deadline=None, max_examples=100)
def test_free_form_mappings_survive_the_snapshot(values: dict[str, Any]) -> None:
    try:
        settings = read({"models": {"main": MODEL | {"client_kwargs": values}}}, A="1")
    except SettingsError:
        return  # rejected, such as infinity or a surrogate
    assert restore(dump(settings)) == settings
