"""The ASGI scope of an exchange. Pure.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from agentscope_protocol.wire.exchange import RequestHead

SPEC_VERSION: Final = "2.3"
"""Below 2.4, frameworks listen for the disconnect of a client while they stream. From 2.4 on they wait for an
error of `send` instead, and do not notice that the client of a silent stream has gone."""


def http_scope(head: RequestHead, state: Mapping[str, Any]) -> dict[str, Any]:
    """The scope of a request."""
    return {**_scope("http", head, state), "method": head.method, "extensions": {}}


def websocket_scope(head: RequestHead, state: Mapping[str, Any]) -> dict[str, Any]:
    """The scope of a WebSocket. The app may reject it with a response of its own."""
    extensions: dict[str, Any] = {"websocket.http.response": {}}
    return {
        **_scope("websocket", head, state),
        "subprotocols": list(head.subprotocols),
        "extensions": extensions,
    }


def _scope(kind: str, head: RequestHead, state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": SPEC_VERSION},
        "http_version": head.http_version,
        "scheme": head.scheme,
        "server": head.server,
        "client": head.client,
        "root_path": "",
        "path": unquote_to_bytes(head.path).decode("utf-8", "replace"),
        "raw_path": head.path,
        "query_string": head.query,
        "headers": list(head.headers),
        "state": dict(state),
    }
