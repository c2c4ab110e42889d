"""Generated heads of turns: fields in any order, spellings of their values, and odd lines."""

import random
from typing import Final

_ODD: Final = (
    *("X-A: a", "X-A:", "X_A: a", "X-A: \t a \t", "x-a: \xe9", "X-A : a", "X-A\t: a", " folded", "nonsense"),
    *("X-\x00: a", "X-A: \x00", "X-A: \x0b", ": a", "X-A: a\rX-B: b", "X-A: a\nX-B: b", "X-A: a\n folded"),
    *("Connection: close", "Connection: keep-alive", "Connection: upgrade", "Connection: content-length"),
    *("Upgrade: h2c", "Upgrade: websocket", "TE: trailers", "Trailer: X-A", "Keep-Alive: timeout=5"),
    *(
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding:",
        "Transfer-Encoding: x",
    ),
    *("Transfer-Encoding: \x0bchunked", "Transfer-Encoding: chunked, chunked", "transfer-encoding: CHUNKED"),
    *(
        "Content-Length: 0",
        "Content-Length: 5",
        "Content-Length:",
        "Content-Length: 5, 5",
        "content_length: 5",
    ),
    *("Content-Encoding: gzip", "Host: other", "Content-Type: text/plain", "X-Session-Id: another"),
)
_LENGTHS: Final = ("{0}",) * 24 + ("0{0}", "+{0}", "{0} ", "{0},{0}", "0x{0}", "{1}", "")
_LINES: Final = ("POST /invoke HTTP/1.1",) * 9 + (
    "POST http://t/invoke HTTP/1.1",
    "POST /invoke?x=1 HTTP/1.1",
)
_TYPES: Final = ("application/json",) * 9 + ("application/json; charset=utf-8", "text/plain")
_ENDS: Final = ("\r\n",) * 150 + ("\n", "\r\n\r\n")


def head(rng: random.Random, body: bytes, token: str) -> bytes:
    """A head for this body, more or less."""
    length = rng.choice(_LENGTHS).format(len(body), len(body) - 1)
    fields = ["Host: t", f"Content-Type: {rng.choice(_TYPES)}", f"Content-Length: {length}"]
    fields += rng.sample(_ODD, rng.choice((0, 1, 1, 1, 1, 2)))
    fields.append(f"Authorization: Bearer {token}")
    rng.shuffle(fields)
    lines = [rng.choice(_LINES), *fields]
    return "".join(line + rng.choice(_ENDS) for line in lines).encode("latin-1") + b"\r\n"
