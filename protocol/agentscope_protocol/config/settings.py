"""agentapp.yaml as typed, immutable values: every key, its default, and how to load and dump them. Pure.

Owns the keys that the supervisor reads, and the file as a whole; `server_settings` has those of HTTP, and
`runtime_settings` the keys that only workers read. `setting_types` defines the single values, `yaml_reader`
parses the text, `problems` builds the report. The supervisor and the workers both use these modules, so they
must not open files, read the environment or log: text and environment are arguments. Relative paths stay as
written; the code that opens them joins them to the project folder.

Read next: `load`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from agentscope_protocol.config.auth_settings import AuthSettings
from agentscope_protocol.config.problems import (
    Path,
    Problem,
    SettingsError,
    section_model,
    translate,
)
from agentscope_protocol.config.protocol_settings import ProtocolsSettings
from agentscope_protocol.config.runtime_settings import (
    AgentscopeSettings,
    McpServerSettings,
    ModelSettings,
    SessionStoreSettings,
    TracingSettings,
)
from agentscope_protocol.config.server_settings import ServerSettings
from agentscope_protocol.config.setting_types import (
    SNAPSHOT,
    AppPath,
    BooleanOrAuto,
    Count,
    CountOrZero,
    HttpUrl,
    Megabytes,
    MegabytesOrZero,
    Patterns,
    PositiveSeconds,
    Seconds,
    Section,
    ServerName,
    SlotName,
    Text,
    Token,
    Umask,
    User,
    Workers,
)

__all__ = [
    "AgentscopeSettings",
    "McpServerSettings",
    "ModelSettings",
    "PlatformSettings",
    "Problem",
    "ProtocolsSettings",
    "ReloadSettings",
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

_NOT_TEXT = {"enum", "const", "integer", "number", "boolean", "null"}  # keywords and types of JSON Schema
_VARIABLE: dict[str, Any] = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"}


class PlatformSettings(Section):
    """`platform`: the heartbeat and the configuration poll. Without this section, both are off."""

    endpoint: HttpUrl = Field(description="The base URL of the platform's API.", repr=False)
    instance_id: Text = Field(description="The id of this instance on the platform.")
    heartbeat_interval: PositiveSeconds = Field(
        30, description="Seconds between two heartbeats, and between two polls of the configuration."
    )
    token: Token | None = Field(
        None, description="Bearer token of the requests to the platform. `null`: no token is sent."
    )


class SessionsSettings(Section):
    """`sessions`: turns of one session, and their kept output."""

    on_busy: Literal["queue", "reject", "interrupt", "latest"] = Field(
        "queue",
        description="The treatment of a turn that arrives while its session has one: `queue` it, `reject` it "
        "with 409, `interrupt` the running turn, or keep only the `latest` of the waiting turns.",
    )
    max_queue: CountOrZero = Field(16, description="Waiting turns of one session. More are answered 429.")
    on_disconnect: Literal["cancel", "continue"] = Field(
        "cancel",
        description="Whether a turn is cancelled when its client disconnects. An ASGI app receives the "
        "disconnect first; its call is cancelled half of `cancel_grace` later.",
    )
    replay_max_mb: MegabytesOrZero = Field(
        64, description="MB of events of all runs that are kept for reconnecting clients. `0`: none."
    )
    replay_ttl: Seconds = Field(3600, description="Seconds that events are kept after the end of their run.")
    idempotency_ttl: Seconds = Field(86_400, description="Seconds that an idempotency key is kept.")
    cancel_grace: Seconds = Field(
        10, description="Seconds for a cancelled turn to end. After that, its worker is replaced."
    )
    idle_after: PositiveSeconds = Field(
        900, description="Seconds without a turn after which `App.on_session_idle` is called."
    )
    retry_on_crash: Literal["never", "before_first_event"] = Field(
        "never",
        description="Whether a turn runs once more when its worker dies. `before_first_event`: only if the "
        "client has received no event.",
    )


class SupervisorSettings(Section):
    """`supervisor`: the worker processes."""

    workers: Workers = Field(
        2,
        description="Number of worker slots. `auto`: one per CPU that the instance may use; a CPU quota is "
        "rounded up.",
    )
    python: Text | None = Field(
        None, description="Python interpreter of the workers. `null`: the interpreter of the supervisor."
    )
    umask: Umask | None = Field(
        None,
        description="The umask of the workers, in octal: the permissions that files of the App do not get. "
        "`null`: the umask of the supervisor.",
    )
    user: User | None = Field(
        None,
        description="User of the workers: a name or a number. If it is not the supervisor's own, the "
        "supervisor must run as root. `null`: the user of the supervisor.",
    )
    max_inflight: Count = Field(
        1024, description="Turns per worker, running and waiting. More are answered 503."
    )
    start_timeout: PositiveSeconds = Field(
        60, description="Seconds from the start of a worker process until it must be ready."
    )
    start_deadline: PositiveSeconds = Field(
        300, description="Seconds during which a failing first start is retried; then exit status 75."
    )
    soak: Seconds = Field(
        2, description="Seconds that a new worker must stay ready before the old one is retired."
    )
    drain_timeout: Seconds = Field(
        30, description="Seconds for running turns to finish when the instance stops."
    )
    stop_timeout: Seconds = Field(
        10, description="Seconds for `App.on_shutdown` when a worker stops; then SIGKILL."
    )
    unresponsive_timeout: PositiveSeconds = Field(
        30, description="Seconds that a worker's event loop may be blocked before the worker is killed."
    )
    max_memory_mb: Megabytes | None = Field(
        None,
        description="MB of memory (PSS) above which a worker is replaced. Without this key: 80 % of the "
        "memory limit of the control group, divided by the number of slots, if that is 150 MB or more. "
        "`null`: no limit.",
    )
    max_turns: Count | None = Field(
        None,
        description="Turns after which a worker is replaced, varied by 10 % per worker. `null`: no limit.",
    )
    preload: BooleanOrAuto = Field(
        "auto",
        description="Whether to fork workers from a process that has AgentScope loaded. `auto`: where "
        "forking is safe, except for one worker with a memory limit below 384 MB.",
    )
    on_platform_restart: Literal["roll", "exit"] = Field(
        "roll",
        description="The effect of a `restart` of the platform: `roll` replaces the workers, `exit` drains "
        "the instance and exits with status 0.",
    )


class ReloadSettings(Section):
    """`reload`: the files that the option `--reload` watches."""

    include: Patterns = Field(
        (),
        description="Files whose changes replace the workers too, such as `*.md` or `data/rules.json`.",
    )
    exclude: Patterns = Field(
        (),
        description="Files and folders whose changes do not replace the workers, such as `generated/`.",
    )


class Settings(Section):
    """The whole of agentapp.yaml. `Settings()` is the meaning of an empty file."""

    app: AppPath | None = Field(
        None,
        description="The app to host, as `module:name`, such as `main:app`. `null`: the class `App` in "
        "app.py, else an ASGI app found there.",
    )
    models: dict[SlotName, ModelSettings] = Field({}, description="Models of the project, by name.")
    mcp_servers: dict[ServerName, McpServerSettings] = Field({}, description="MCP servers, by name.")
    session: SessionStoreSettings = Field(
        default_factory=SessionStoreSettings, description="The store of session states."
    )
    platform: PlatformSettings | None = Field(
        None, description="The platform to report to. `null`: no platform traffic."
    )
    tracing: TracingSettings | None = Field(None, description="The export of traces. `null`: no tracing.")
    server: ServerSettings = Field(default_factory=ServerSettings, description="The HTTP server.")
    auth: AuthSettings = Field(default_factory=AuthSettings, description="The tokens of clients.")
    protocols: ProtocolsSettings = Field(
        default_factory=ProtocolsSettings, description="The protocols of clients, beside `POST /invoke`."
    )
    sessions: SessionsSettings = Field(
        default_factory=SessionsSettings, description="Turns of sessions, and their kept output."
    )
    supervisor: SupervisorSettings = Field(
        default_factory=SupervisorSettings, description="The worker processes."
    )
    reload: ReloadSettings = Field(
        default_factory=ReloadSettings, description="The files that `--reload` watches."
    )
    agentscope: AgentscopeSettings = Field(
        default_factory=AgentscopeSettings, description="Settings of AgentScope itself."
    )


def load(text: str, *, source: str, env: Mapping[str, str]) -> Settings:
    """Parse and validate the text of an agentapp.yaml, with `${VAR}` taken from `env`.

    `source` is the name of the file in the report.

    Raises:
        SettingsError: lists every problem of the file.
    """
    from agentscope_protocol.config.yaml_reader import read  # PyYAML, which workers do not need

    document = read(text, env)
    problems = document.problems
    try:
        settings = Settings.model_validate(document.data)
    except ValidationError as error:
        problems = problems + translate(error, Settings, document.lines, document.invalid)
    else:
        if not problems:
            return settings
    # Raised outside the except clause: the ValidationError contains secrets and must not become the context.
    raise SettingsError(source, problems)


class _Blanks(dict[str, str]):
    """An environment in which every unset variable is empty."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return ""


def load_slots(text: str, *, source: str, env: Mapping[str, str]) -> dict[str, str]:
    """The model slots in the text of an agentapp.yaml: name -> provider.

    For callers that need neither secrets nor the rest of the file: unset variables are no error, and other
    sections are ignored.

    Raises:
        SettingsError: lists every problem of the slots' names and providers, or of the text itself.
    """
    from agentscope_protocol.config.yaml_reader import read

    document = read(text, _Blanks(env))
    slots = document.data.get("models", {})
    if isinstance(slots, dict):
        slots = {name: _only_provider(slot) for name, slot in slots.items()}
    problems = document.problems
    try:
        settings = Settings.model_validate({"models": slots})
    except ValidationError as error:
        problems = problems + translate(error, Settings, document.lines, document.invalid)
    else:
        if not problems:
            return {name: slot.provider for name, slot in settings.models.items()}
    raise SettingsError(source, problems)


def unset_variables(text: str, *, env: Mapping[str, str]) -> list[str]:
    """The variables to which the text of an agentapp.yaml refers and that `env` does not have, in order."""
    from agentscope_protocol.config.yaml_reader import read

    return [name for name in read(text, env).references if name not in env]


def load_auth_token(text: str, *, env: Mapping[str, str]) -> tuple[str | None, list[str]]:
    """A token for turns in the text of an agentapp.yaml, and the unset variables in it.

    It is `server.auth_token`, or the first of `auth.tokens` that is in the text and has the scope `use`.
    Nothing else in the text is validated. The token is None if it is absent or cannot be read.
    """
    from agentscope_protocol.config.yaml_reader import read

    document = read(text, env)
    server, auth = document.data.get("server"), document.data.get("auth")
    path: Path = ("server", "auth_token")
    token = server.get("auth_token") if isinstance(server, dict) else None
    tokens = auth.get("tokens") if isinstance(auth, dict) else None
    if token is None and isinstance(tokens, list):
        for number, each in enumerate(tokens):
            if isinstance(each, dict) and "token" in each and "use" in (each.get("scopes") or ["use"]):
                path, token = ("auth", "tokens", number, "token"), each["token"]
                break
    unset = [name for name, paths in document.references.items() if path in paths and name not in env]
    if not isinstance(token, str) or path in document.invalid:
        return None, unset
    return token, unset


def _only_provider(slot: object) -> object:
    if not isinstance(slot, dict):
        return slot
    return {"model": "any"} | {key: value for key, value in slot.items() if key == "provider"}


def dump(settings: Settings) -> bytes:
    """The snapshot for a worker: JSON with secrets in plain text, and only the keys that were set."""
    text = settings.model_dump_json(exclude_unset=True, context=SNAPSHOT)
    return text.encode()


def restore(snapshot: bytes) -> Settings:
    """The settings from a snapshot that `dump` returned.

    Raises:
        SettingsError: the bytes are not a snapshot, or come from a version with other keys.
    """
    try:
        return Settings.model_validate_json(snapshot)
    except ValidationError as error:
        problems = translate(error, Settings, {})
    raise SettingsError("settings snapshot", problems)


def chosen_keys(settings: Settings) -> frozenset[str]:
    """Dotted paths of the keys that the file sets, such as `models.main.api_key`, without defaults.

    The result is the same after `dump` and `restore`. Keys set by `model_copy(update=…)` are included.
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
    """The JSON Schema of agentapp.yaml, for editors; it accepts a `${VAR}` in place of any value."""
    schema = Settings.model_json_schema()
    for section in schema["$defs"].values():
        for name, key in section.get("properties", {}).items():
            section["properties"][name] = _lenient(key)
    # A section whose keys are all commented out is null, and keeps its defaults.
    for name, key in schema["properties"].items():
        schema["properties"][name] = {"anyOf": [key, {"type": "null"}]}
    schema["properties"]["models"]["anyOf"][0]["propertyNames"] = {"pattern": "^[^_0-9]"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _lenient(key: dict[str, Any]) -> dict[str, Any]:
    """The schema of a key, extended to accept `${VAR}` if it does not accept text."""
    choices = key.get("anyOf", [key])
    if not all(_NOT_TEXT & choice.keys() or choice.get("type") in _NOT_TEXT for choice in choices):
        return key
    outer = {word: key.pop(word) for word in ("title", "description", "default") if word in key}
    return outer | {"anyOf": [*choices, _VARIABLE]}
