"""agentapp.yaml as typed, immutable values: every key with its default, and the ways in and out. Pure.

Owns the keys and the rules between them; `setting_types` has the single values, `yaml_reader`
the reading of text, `problems` the report. Supervisor and workers both read settings
here, so nothing in these modules opens a file, looks at the environment or logs: text and
environment are arguments. Relative paths stay as written; whoever opens them joins them to the
project folder. Read next: `load`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from agentscope_protocol.config.problems import (
    Problem,
    SettingsError,
    section_model,
    translate,
)
from agentscope_protocol.config.setting_types import (
    SNAPSHOT,
    BooleanOrAuto,
    Count,
    CountOrZero,
    FreeMapping,
    Headers,
    HttpUrl,
    Megabytes,
    MegabytesOrZero,
    OnOffAuto,
    Port,
    PositiveSeconds,
    Principal,
    RedisUrl,
    Seconds,
    Secret,
    ServerName,
    SlotName,
    Text,
    Token,
    Workers,
)
from agentscope_protocol.config.yaml_reader import read

__all__ = [
    "AgentscopeSettings",
    "McpServerSettings",
    "ModelSettings",
    "PlatformSettings",
    "Problem",
    "ServerSettings",
    "SessionStoreSettings",
    "SessionsSettings",
    "Settings",
    "SettingsError",
    "SupervisorSettings",
    "TracingSettings",
    "chosen_keys",
    "dump",
    "json_schema",
    "load",
    "load_slots",
    "restore",
]

_NOT_TEXT = {"enum", "const", "integer", "number", "boolean", "null"}  # words of JSON Schema
_VARIABLE: dict[str, Any] = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"}


# A URL may hold a key in its query, or a password; so no URL is in the repr of its section.
class _Section(BaseModel):
    # hide_input: what pydantic prints when code builds a section must not hold a secret either.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ModelSettings(_Section):
    """`models.<name>`: one model of the project, in code `runtime.models.<name>`."""

    provider: Literal["openai", "anthropic", "dashscope", "gemini", "ollama"] = Field(
        description="whose API the model speaks"
    )
    model: Text = Field(description="the provider's name of the model")
    api_key: Secret | None = Field(None, description="the provider's key")
    base_url: HttpUrl | None = Field(None, description="where to reach it; null: provider's own", repr=False)
    stream: bool = Field(True, description="ask the provider for a stream")
    generate_kwargs: FreeMapping = Field({}, description="sampling: temperature, max_tokens, …")
    client_kwargs: FreeMapping = Field({}, description="for the provider's client", repr=False)


class McpServerSettings(_Section):
    """`mcp_servers.<name>`: a server whose tools are in `runtime.tools`."""

    url: HttpUrl = Field(description="where the server listens", repr=False)
    transport: Literal["sse", "streamable_http"] = Field("sse", description="what it speaks")
    headers: Headers = Field({}, description="sent with each request; values are secrets")
    timeout: PositiveSeconds = Field(30, description="s, connect and call")
    sse_read_timeout: PositiveSeconds = Field(300, description="s without an event")
    required: bool = Field(False, description="a worker is not ready until it is connected")


class SessionStoreSettings(_Section):
    """`session`: where `runtime.session` keeps what the App saves."""

    backend: Literal["json", "redis"] = Field("json", description="files or a Redis")
    save_dir: Text = Field("./sessions", description="folder of the files, for json")
    redis_url: RedisUrl | None = Field(None, description="for redis", validate_default=True)

    @field_validator("redis_url")
    @classmethod
    def _needed_for_redis(cls, value: RedisUrl | None, info: ValidationInfo) -> RedisUrl | None:
        # Of the field, not of the section: it is then reported along with the other problems.
        if value is None and info.data.get("backend") == "redis":
            raise ValueError("is required when session.backend is redis")
        return value


class PlatformSettings(_Section):
    """`platform`: heartbeat and configuration poll; without the section there are none."""

    endpoint: HttpUrl = Field(description="base URL of the platform's API", repr=False)
    instance_id: Text = Field(description="the platform's name of this instance")
    heartbeat_interval: PositiveSeconds = Field(30, description="s between beats")
    token: Token | None = Field(None, description="sent as Authorization: Bearer")


class TracingSettings(_Section):
    """`tracing`: export of spans; without the section there is none."""

    endpoint: HttpUrl = Field("http://localhost:4318/v1/traces", description="OTLP over HTTP", repr=False)


class ServerSettings(_Section):
    """`server`: the HTTP front door of the instance."""

    host: Text = Field("127.0.0.1", description="address to listen on")
    port: Port = Field(8080, description="0: any free port")
    auth_token: Token | None = Field(None, description="wanted as Authorization: Bearer")
    max_body_mb: Megabytes = Field(16, description="MB of a request body")
    request_timeout: Seconds = Field(600, description="s, a whole turn; 0: none")
    keepalive_interval: PositiveSeconds = Field(15, description="s, comment on an idle stream")
    header_timeout: PositiveSeconds = Field(10, description="s until the headers are in")
    body_timeout: PositiveSeconds = Field(30, description="s until the body is in")
    max_connections: Count = Field(10_000, description="open at once")
    max_turns: Count = Field(4096, description="of the instance, running and waiting; then 503")
    max_turns_per_principal: Count | None = Field(None, description="then 429; null: no limit")
    principal: Principal = Field("token", description="who a turn counts for: token or metadata.*")
    metrics: bool = Field(True, description="serve GET /metrics")
    console: OnOffAuto = Field("auto", description="auto: on in `agentscope run`")


class SessionsSettings(_Section):
    """`sessions`: how the turns of one session follow each other."""

    on_busy: Literal["queue", "reject", "interrupt", "latest"] = Field(
        "queue", description="what a second turn does while one runs"
    )
    max_queue: CountOrZero = Field(16, description="waiting turns of one session; then 429")
    on_disconnect: Literal["cancel", "continue"] = Field(
        "cancel", description="what becomes of a turn whose client left"
    )
    replay_max_mb: MegabytesOrZero = Field(64, description="MB of kept events, for reconnection")
    replay_ttl: Seconds = Field(3600, description="s that events are kept")
    idempotency_ttl: Seconds = Field(86_400, description="s that idempotency keys are kept")
    cancel_grace: Seconds = Field(10, description="s for a cancelled turn to end")
    idle_after: PositiveSeconds = Field(900, description="s, then on_session_idle")
    retry_on_crash: Literal["never", "before_first_event"] = Field(
        "never", description="may a turn run once more whose worker died"
    )


class SupervisorSettings(_Section):
    """`supervisor`: the worker processes."""

    workers: Workers = Field(2, description="how many; auto: one per CPU")
    python: Text | None = Field(None, description="interpreter; null: the supervisor's own")
    max_inflight: Count = Field(1024, description="turns per worker, running and queued; then 503")
    start_timeout: PositiveSeconds = Field(60, description="s, process start to ready")
    start_deadline: PositiveSeconds = Field(300, description="s, retries of the first start")
    soak: Seconds = Field(2, description="s that a replacement stays ready before the old retires")
    drain_timeout: Seconds = Field(30, description="s for running turns when the instance stops")
    stop_timeout: Seconds = Field(10, description="s, on_shutdown, then SIGKILL")
    unresponsive_timeout: PositiveSeconds = Field(30, description="s without a turn of the loop")
    max_memory_mb: Megabytes | None = Field(None, description="MB (PSS) per worker, then replaced")
    max_turns: Count | None = Field(None, description="per worker, then replaced")
    preload: BooleanOrAuto = Field("auto", description="fork from a process with AgentScope loaded")
    on_platform_restart: Literal["roll", "exit"] = Field(
        "roll", description="replace the workers, or leave with status 0"
    )


class AgentscopeSettings(_Section):
    """`agentscope`: how AgentScope itself is set up in a worker."""

    permission_mode: Literal["default", "accept_edits", "explore", "bypass", "dont_ask"] = Field(
        "bypass", description="2.x: may tools run while nobody is there to confirm"
    )


class Settings(_Section):
    """The whole of agentapp.yaml; `Settings()` is what an empty file means."""

    models: dict[SlotName, ModelSettings] = Field({}, description="name -> model")
    mcp_servers: dict[ServerName, McpServerSettings] = Field({}, description="name -> MCP server")
    session: SessionStoreSettings = Field(default_factory=SessionStoreSettings)
    platform: PlatformSettings | None = None
    tracing: TracingSettings | None = None
    server: ServerSettings = Field(default_factory=ServerSettings)
    sessions: SessionsSettings = Field(default_factory=SessionsSettings)
    supervisor: SupervisorSettings = Field(default_factory=SupervisorSettings)
    agentscope: AgentscopeSettings = Field(default_factory=AgentscopeSettings)


def load(text: str, *, source: str, env: Mapping[str, str]) -> Settings:
    """The settings in the text of an agentapp.yaml, `${VAR}` taken from `env`.

    `source` is how the report calls the file. Raises:
        SettingsError: with every problem of the file at once.
    """
    document = read(text, env)
    problems = document.problems
    try:
        settings = Settings.model_validate(document.data)
    except ValidationError as error:
        problems = problems + translate(error, Settings, document.lines, document.spoiled)
    else:
        if not problems:
            return settings
    # Outside the except clause: the ValidationError holds secrets and must not become the context.
    raise SettingsError(source, problems)


class _Blanks(dict[str, str]):
    """An environment in which each variable that is not set is empty."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return ""


def load_slots(text: str, *, source: str, env: Mapping[str, str]) -> dict[str, str]:
    """The model slots in the text of an agentapp.yaml: name -> provider.

    For what needs neither secrets nor the rest of the file: a variable that is not set is no problem, and
    other sections are not looked at. Raises:
        SettingsError: with every problem of the slots' names and providers, or of the text itself.
    """
    document = read(text, _Blanks(env))
    slots = document.data.get("models", {})
    if isinstance(slots, dict):
        slots = {name: _only_provider(slot) for name, slot in slots.items()}
    problems = document.problems
    try:
        settings = Settings.model_validate({"models": slots})
    except ValidationError as error:
        problems = problems + translate(error, Settings, document.lines, document.spoiled)
    else:
        if not problems:
            return {name: slot.provider for name, slot in settings.models.items()}
    raise SettingsError(source, problems)


def _only_provider(slot: object) -> object:
    if not isinstance(slot, dict):
        return slot
    return {"model": "any"} | {key: value for key, value in slot.items() if key == "provider"}


def dump(settings: Settings) -> bytes:
    """The snapshot for a worker: JSON, secrets in plain, only the keys that were chosen."""
    text = settings.model_dump_json(exclude_unset=True, context=SNAPSHOT)
    return text.encode()


def restore(snapshot: bytes) -> Settings:
    """The settings that `dump` was given.

    Raises:
        SettingsError: it is not a snapshot, or one of a version with other keys.
    """
    try:
        return Settings.model_validate_json(snapshot)
    except ValidationError as error:
        problems = translate(error, Settings, {})
    raise SettingsError("settings snapshot", problems)


def chosen_keys(settings: Settings) -> frozenset[str]:
    """Dotted paths of the keys that the file set, `models.main.api_key`; defaults are not in it.

    It survives `dump` and `restore`; keys that were set by `model_copy(update=…)` count too.
    """
    return frozenset(_chosen(settings, ""))


def _chosen(section: BaseModel, prefix: str) -> Iterator[str]:
    for name in section.model_fields_set:
        match getattr(section, name):
            case BaseModel() as inner:
                yield from _chosen(inner, f"{prefix}{name}.")
            case dict() as named if section_model(type(section).model_fields[name].annotation):
                for key, inner in named.items():
                    yield from _chosen(inner, f"{prefix}{name}.{key}.")
            case _:
                yield prefix + name


def json_schema() -> dict[str, object]:
    """JSON Schema of agentapp.yaml, for editors; it takes a `${VAR}` in place of any value."""
    schema = Settings.model_json_schema()
    for section in schema["$defs"].values():
        for name, key in section.get("properties", {}).items():
            section["properties"][name] = _lenient(key)
    # A section whose keys are all commented out is null, and has its defaults.
    for name, key in schema["properties"].items():
        schema["properties"][name] = {"anyOf": [key, {"type": "null"}]}
    schema["properties"]["models"]["anyOf"][0]["propertyNames"] = {"pattern": "^[^_0-9]"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _lenient(key: dict[str, Any]) -> dict[str, Any]:
    """The schema of a key, with `${VAR}` allowed where text would not be."""
    choices = key.get("anyOf", [key])
    if not all(_NOT_TEXT & choice.keys() or choice.get("type") in _NOT_TEXT for choice in choices):
        return key
    outer = {word: key.pop(word) for word in ("title", "description", "default") if word in key}
    return outer | {"anyOf": [*choices, _VARIABLE]}
