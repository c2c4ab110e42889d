"""The section `server` of agentapp.yaml: access to the instance, and the limits of HTTP. Pure.

Read next: `settings`, which has the other sections of the supervisor and the file as a whole.
"""

from pydantic import Field

from agentscope_protocol.config.setting_types import (
    Count,
    HeadKilobytes,
    HostNames,
    Megabytes,
    Networks,
    OnOffAuto,
    Origins,
    PathPrefix,
    Port,
    PositiveSeconds,
    Principal,
    Seconds,
    Section,
    Text,
    Token,
)


class ServerSettings(Section):
    """`server`: the HTTP server of the instance."""

    host: Text = Field("127.0.0.1", description="The address to listen on. `0.0.0.0`: all interfaces.")
    port: Port = Field(8080, description="The TCP port. `0`: any free port; `status` reports it.")
    auth_token: Token | None = Field(
        None,
        description="Bearer token that requests must send, except on health routes, metrics and the "
        "console page. `null`: no authentication.",
    )
    open: bool = Field(
        False,
        description="`true`: without `auth_token`, the instance may listen on an address that other machines "
        "reach. `false`: such a start ends with exit status 78.",
    )
    hosts: HostNames = Field(
        [],
        description="Names in the Host header, beside `localhost` and loopback addresses, under which an "
        "instance without `auth_token` is served. Other names get 403.",
    )
    cors_origins: Origins = Field(
        [],
        description="Origins of web pages, such as `https://app.example.com`, that may send requests from a "
        "browser. Pages of other origins get 403.",
    )
    max_body_mb: Megabytes = Field(16, description="Largest request body, in MB. Larger ones get 413.")
    max_upload_mb: Megabytes = Field(
        4096, description="Largest request body for a hosted app, in MB. Larger ones get 413."
    )
    max_head_kb: HeadKilobytes = Field(
        32, description="Largest request line and headers together, in KB. Larger ones get 400."
    )
    request_timeout: Seconds = Field(
        600, description="Seconds for a whole turn, waiting included. `0`: no limit."
    )
    keepalive_interval: PositiveSeconds = Field(
        15, description="Seconds of silence after which a stream gets an SSE comment."
    )
    header_timeout: PositiveSeconds = Field(
        10, description="Seconds in which the headers of a request must arrive."
    )
    body_timeout: PositiveSeconds = Field(
        30, description="Seconds in which the body must arrive, at 1 KB/s or faster."
    )
    max_connections: Count = Field(10_000, description="Open client connections. More are answered 503.")
    max_turns: Count = Field(
        4096, description="Turns of the instance, running and waiting. More are answered 503."
    )
    max_turns_per_principal: Count | None = Field(
        None, description="Open turns of one principal. More are answered 429. `null`: no limit."
    )
    principal: Principal = Field(
        "token",
        description="The identity of a caller: its `token`, or `metadata.<key>`, a field of the request.",
    )
    auth_hosted: bool = Field(
        True,
        description="Whether `auth_token` is required on the routes of a hosted app too. `false`: the app "
        "authenticates its clients itself.",
    )
    prefix: PathPrefix = Field(
        "",
        description="Prefix of this server's own routes beside a hosted app, such as `/_supervisor`. The "
        "paths without it then belong to the app. Without a hosted app it has no effect.",
    )
    trusted_proxies: Networks = Field(
        [],
        description="Addresses or networks of proxies whose X-Forwarded-For, -Proto and -Host headers tell "
        "a hosted app its client, scheme and host.",
    )
    session_cookie: Text | None = Field(
        None, description="Name of a cookie with the session id, which pins requests for a hosted app."
    )
    session_query: Text | None = Field(
        None, description="Name of a query parameter with the session id, as `session_cookie`."
    )
    metrics: bool = Field(True, description="Whether to serve `GET /metrics`.")
    console: OnOffAuto = Field(
        "auto", description="Whether to serve the console. `auto`: only under `agentscope run`."
    )
