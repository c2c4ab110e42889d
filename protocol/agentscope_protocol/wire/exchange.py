"""The head of an exchange's request, as the body of its Open frame, and the payload of a CLOSE message. Pure.

The head is a msgpack array, to which fields may be appended. The supervisor encodes it and the worker decodes
it; the link in between forwards its bytes.

Read next: `frames`, with the frames of an exchange.
"""

import struct
from typing import Any, Final

import msgpack

from agentscope_protocol.wire.codec import fields, header_pairs
from agentscope_protocol.wire.errors import LocalProtocolError, RemoteProtocolError
from agentscope_protocol.wire.frames import Tag
from agentscope_protocol.wire.values import value

PIECE: Final = 64 * 1024
"""Bytes of a body in one Input or Data frame. Larger frames would delay the frames of other streams, and
smaller ones cost more than they carry."""

NO_STATUS: Final = 1005  # RFC 6455, section 7.1.5: the close frame had no code
ABNORMAL: Final = 1006  # RFC 6455, section 7.1.5: the connection ended without a close frame

_CODE: Final = struct.Struct(">H")


@value
class RequestHead:
    """The request of an exchange, without its body.

    `path`: raw and percent-encoded, `query`: without the question mark, both as the client sent them. The
    names of `headers` are in lower case. `client` and `server`: address and port, as behind a trusted proxy.
    `scheme`: http, https, ws or wss. `subprotocols`: those that the client of a WebSocket offers.
    """

    method: str
    path: bytes
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    client: tuple[str, int] | None
    server: tuple[str, int] | None
    scheme: str
    http_version: str = "1.1"
    subprotocols: tuple[str, ...] = ()


def encode_head(head: RequestHead) -> bytes:
    """The head as the body of an Open frame. Raises: LocalProtocolError if a value cannot be encoded."""
    items = [
        head.method,
        head.path,
        head.query,
        head.headers,
        head.client or (),
        head.server or (),
        head.scheme,
        head.http_version,
        head.subprotocols,
    ]
    try:
        packed: bytes = msgpack.packb(items)
    except (OverflowError, UnicodeEncodeError, TypeError, ValueError) as error:
        raise LocalProtocolError(f"the head of an exchange cannot be encoded: {error}") from error
    return packed


def decode_head(body: bytes) -> RequestHead:
    """The head that the body of an Open frame encodes. Raises: RemoteProtocolError."""
    method, path, query, headers, client, server, scheme, version, subprotocols = fields(
        Tag.OPEN, body, (str, bytes, bytes, list, list, list, str, str, list)
    )
    if not all(type(name) is str for name in subprotocols):
        raise RemoteProtocolError("OPEN with subprotocols that are not text")
    return RequestHead(
        method,
        path,
        query,
        header_pairs(Tag.OPEN, headers),
        _address(client),
        _address(server),
        scheme,
        version,
        tuple(subprotocols),
    )


def _address(items: list[Any]) -> tuple[str, int] | None:
    if not items:
        return None
    if [type(item) for item in items] != [str, int]:
        raise RemoteProtocolError("OPEN with an address that is not a host and a port")
    return items[0], items[1]


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a CLOSE message: that of a close frame (RFC 6455), also for codes that no frame has.

    Raises: LocalProtocolError if `code` does not fit into 16 bits.
    """
    if not 0 <= code <= 0xFFFF:
        raise LocalProtocolError(f"close code {code}")
    return _CODE.pack(code) + reason.encode("utf-8", "replace")


def read_close(payload: bytes) -> tuple[int, str]:
    """The code and the reason of a CLOSE message; code NO_STATUS if it has none."""
    if len(payload) < _CODE.size:
        return NO_STATUS, ""
    code: int = _CODE.unpack_from(payload)[0]
    return code, payload[_CODE.size :].decode("utf-8", "replace")
