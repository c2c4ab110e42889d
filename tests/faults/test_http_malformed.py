"""Requests that are wrong, odd, or would mean two things to two readers (F67, F68): a corpus, row by row.

What is refused gets 400 in our form, and the connection ends there, whatever follows. What is taken leaves
the connection where it should be: the next request on it is answered.
"""

import asyncio
import re
from typing import Final

import pytest

from tests.harness.client import Connection, call, chunked, request, turn_body
from tests.harness.instance import Instance

BODY: Final = turn_body("malformed", "x", stream=False)
HIDDEN: Final = b"GET /liveness HTTP/1.1\r\nHost: t\r\n\r\n"
"""Follows each row: where two readings of one request differ, this is what is smuggled."""


def get(line: bytes = b"GET /liveness HTTP/1.1", *headers: bytes, host: bytes = b"Host: t\r\n") -> bytes:
    return line + b"\r\n" + host + b"".join(header + b"\r\n" for header in headers) + b"\r\n"


def post(*headers: bytes, body: bytes = BODY, version: bytes = b"1.1") -> bytes:
    fields = (b"Host: localhost", b"Content-Type: application/json", *headers)
    return (
        b"POST /invoke HTTP/%b\r\n" % version + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body
    )


def chunks(text: bytes) -> bytes:
    return post(CHUNKED, body=text)


LENGTH: Final = b"Content-Length: %d" % len(BODY)
CHUNKED: Final = b"Transfer-Encoding: chunked"
SIZE: Final = b"%x" % len(BODY)

REFUSED: Final = {
    # the request line
    "garbage": b"GARBAGE\r\n\r\n",
    "binary": bytes(range(128, 256)) + b"\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40 + b"\r\n\r\n",
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9 without version": b"GET /liveness\r\n\r\n",
    "HTTP/0.9": get(b"GET /liveness HTTP/0.9"),
    "HTTP/1.2": get(b"GET /liveness HTTP/1.2"),
    "HTTP/1.10": get(b"GET /liveness HTTP/1.10"),
    "HTTP/2.0": get(b"GET /liveness HTTP/2.0"),
    "HTTP/3.0": get(b"GET /liveness HTTP/3.0"),
    "version in small letters": get(b"GET /liveness http/1.1"),
    "version of letters": get(b"GET /liveness HTTP/x.y"),
    "version cut off": get(b"GET /liveness HTTP/1."),
    "version of none": get(b"GET /liveness HTTP/"),
    "another protocol": get(b"GET /liveness ICE/1.1"),
    "two words too many": get(b"GET / x y HTTP/1.1"),
    "blank before the method": get(b" GET /liveness HTTP/1.1"),
    "blank after the version": get(b"GET /liveness HTTP/1.1 "),
    "tabs between words": get(b"GET\t/liveness\tHTTP/1.1"),
    "blank in the path": get(b"GET /live ness HTTP/1.1"),
    "method with a colon": get(b"GE:T / HTTP/1.1"),
    "method in small letters": get(b"get /liveness HTTP/1.1"),
    "method that nobody knows": get(b"FETCH /liveness HTTP/1.1"),
    "method without end": get(b"A" * 100_000 + b" / HTTP/1.1"),
    "path without end": get(b"GET /" + b"a" * 100_000 + b" HTTP/1.1"),
    "path with NUL": get(b"GET /live\0ness HTTP/1.1"),
    "path with a control character": get(b"GET /live\x01ness HTTP/1.1"),
    "path with DEL": get(b"GET /live\x7fness HTTP/1.1"),
    "path with bytes that are no ASCII": get(b"GET /\xff\xfe HTTP/1.1"),
    "path with a fragment": get(b"GET /liveness#here HTTP/1.1"),
    "no path": get(b"GET  HTTP/1.1"),
    "path without slash": get(b"GET liveness HTTP/1.1"),
    "path of an asterisk": get(b"GET * HTTP/1.1"),
    "host and port in place of a path": get(b"GET t:80 HTTP/1.1"),
    "URL of another scheme": get(b"GET ftp://t/liveness HTTP/1.1"),
    "URL with a user": get(b"GET http://u:p@t/liveness HTTP/1.1"),
    "URL with a broken address": get(b"GET http://[::1/liveness HTTP/1.1"),
    "URL with a port out of range": get(b"GET http://t:99999/liveness HTTP/1.1"),
    "tunnel": get(b"CONNECT t:80 HTTP/1.1"),
    "tunnel to a path": get(b"CONNECT /liveness HTTP/1.1"),
    "websocket": get(b"GET /liveness HTTP/1.1", b"Connection: Upgrade", b"Upgrade: websocket"),
    # the ends of lines
    "line feeds alone": b"GET /liveness HTTP/1.1\nHost: t\n\n",
    "line feed alone after the request line": b"GET /liveness HTTP/1.1\nHost: t\r\n\r\n",
    "line feed alone after a header": b"GET /liveness HTTP/1.1\r\nHost: t\nX-A: a\r\n\r\n",
    "line feed alone at the end": b"GET /liveness HTTP/1.1\r\nHost: t\r\n\n",
    "returns alone": b"GET /liveness HTTP/1.1\rHost: t\r\r",
    "return in a header": get(b"GET /liveness HTTP/1.1", b"X-A: a\rX-B: b"),
    "two returns": b"GET /liveness HTTP/1.1\r\r\nHost: t\r\n\r\n",
    # headers
    "folded header": get(b"GET /liveness HTTP/1.1", b"X-A: a\r\n b"),
    "folded header with a tab": get(b"GET /liveness HTTP/1.1", b"X-A: a\r\n\tb"),
    "first header folded": b"GET /liveness HTTP/1.1\r\n Host: t\r\n\r\n",
    "header without colon": get(b"GET /liveness HTTP/1.1", b"nonsense"),
    "header without name": get(b"GET /liveness HTTP/1.1", b": x"),
    "blank before the colon": get(b"GET /liveness HTTP/1.1", b"X-A : x"),
    "blank in a name": get(b"GET /liveness HTTP/1.1", b"X A: x"),
    "bracket in a name": get(b"GET /liveness HTTP/1.1", b"X(A: x"),
    "NUL in a name": get(b"GET /liveness HTTP/1.1", b"X\0A: x"),
    "no ASCII in a name": get(b"GET /liveness HTTP/1.1", b"X\xc3\xa9: x"),
    "NUL in a value": get(b"GET /liveness HTTP/1.1", b"X-A: a\0b"),
    "control character in a value": get(b"GET /liveness HTTP/1.1", b"X-A: a\x01b"),
    "DEL in a value": get(b"GET /liveness HTTP/1.1", b"X-A: a\x7fb"),
    "value without end": get(b"GET /liveness HTTP/1.1", b"X-A: " + b"a" * 100_000),
    "name without end": get(b"GET /liveness HTTP/1.1", b"X" * 100_000 + b": a"),
    "too many headers": get(b"GET /liveness HTTP/1.1", *[b"X-%d: a" % n for n in range(200)]),
    "headers without end": get(b"GET /liveness HTTP/1.1", *[b"X-A: a"] * 50_000),
    "no Host": get(host=b""),
    "two Hosts": get(b"GET /liveness HTTP/1.1", b"Host: u"),
    "Host twice": get(b"GET /liveness HTTP/1.1", b"Host: t"),
    "Content-Type twice": post(LENGTH, b"Content-Type: application/json"),
    # the length
    "length negative": post(b"Content-Length: -1"),
    "length of letters": post(b"Content-Length: many"),
    "length with a sign": post(b"Content-Length: +5"),
    "length in hex": post(b"Content-Length: 0x10"),
    "length with an underscore": post(b"Content-Length: 1_0"),
    "length with a blank inside": post(b"Content-Length: 1 0"),
    "length in other digits": post(b"Content-Length: \xd9\xa5"),
    "length of nothing": post(b"Content-Length: "),
    "length above 64 bits": post(b"Content-Length: 99999999999999999999999"),
    "length as a list": post(b"Content-Length: 5, 5"),
    "two lengths": post(LENGTH, b"Content-Length: 5"),
    "length twice": post(LENGTH, LENGTH),
    "length and chunks": post(LENGTH, CHUNKED, body=chunked(BODY)),
    "chunks and length": post(CHUNKED, b"Content-Length: 0", body=chunked(BODY)),
    # the coding
    "chunks of HTTP/1.0": post(CHUNKED, body=chunked(BODY), version=b"1.0"),
    "coding of HTTP/1.0": post(LENGTH, b"Transfer-Encoding: identity", version=b"1.0"),
    "coding of nothing": post(b"Transfer-Encoding: "),
    "coding of nothing and length": post(b"Transfer-Encoding: ", LENGTH),
    "length and coding of nothing": post(LENGTH, b"Transfer-Encoding:"),
    "chunked and coding of nothing": post(CHUNKED, b"Transfer-Encoding:", body=chunked(BODY)),
    "unknown coding": post(b"Transfer-Encoding: nonsense", body=chunked(BODY)),
    "identity": post(LENGTH, b"Transfer-Encoding: identity"),
    "gzip and chunked": post(b"Transfer-Encoding: gzip, chunked", body=chunked(BODY)),
    "chunked twice": post(b"Transfer-Encoding: chunked, chunked", body=chunked(BODY)),
    "chunked in two headers": post(CHUNKED, CHUNKED, body=chunked(BODY)),
    "chunked, then identity": post(CHUNKED, b"Transfer-Encoding: identity", body=chunked(BODY)),
    "chunked not last": post(b"Transfer-Encoding: chunked, gzip", body=chunked(BODY)),
    "chunked in quotes": post(b'Transfer-Encoding: "chunked"', body=chunked(BODY)),
    "chunked with a parameter": post(b"Transfer-Encoding: chunked;q=1", body=chunked(BODY)),
    "chunked after a vertical tab": post(b"Transfer-Encoding: \x0bchunked", body=chunked(BODY)),
    "chunked with a letter too many": post(b"Transfer-Encoding: xchunked", body=chunked(BODY)),
    "chunked, blank before the colon": post(b"Transfer-Encoding : chunked", body=chunked(BODY)),
    # chunks
    "size of letters": chunks(b"xyz\r\n"),
    "size of nothing": chunks(b"\r\n"),
    "size negative": chunks(b"-5\r\nhello\r\n0\r\n\r\n"),
    "size above 64 bits": chunks(b"f" * 17 + b"\r\n"),
    "size with a prefix": chunks(b"0x%b\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)),
    "size with an underscore": chunks(b"1_0\r\n"),
    "blank before the size": chunks(b" %b\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)),
    "blank after the size": chunks(b"%b \r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)),
    "chunk too long": chunks(b"2\r\nabcdef\r\n0\r\n\r\n"),
    "chunk without its end": chunks(b"%b\r\n%b0\r\n\r\n" % (SIZE, BODY)),
    "chunk with a line feed alone": chunks(b"%b\n%b\n0\n\n" % (SIZE, BODY)),
    "return in an extension": chunks(b"%b;a\rb\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)),
    "line feed after an extension": chunks(b"%b;a=b\n%b\r\n0\r\n\r\n" % (SIZE, BODY)),
    "length in the trailer": chunks(chunked(BODY)[:-2] + b"Content-Length: 5\r\n\r\n"),
    "coding in the trailer": chunks(chunked(BODY)[:-2] + CHUNKED + b"\r\n\r\n"),
    "Host in the trailer": chunks(chunked(BODY)[:-2] + b"Host: u\r\n\r\n"),
    "trailer without colon": chunks(chunked(BODY)[:-2] + b"nonsense\r\n\r\n"),
    "trailer without end": chunks(chunked(BODY)[:-2] + b"X-A: " + b"a" * 100_000 + b"\r\n\r\n"),
    "too many trailers": chunks(chunked(BODY)[:-2] + b"X-A: a\r\n" * 5000 + b"\r\n"),
}

TAKEN: Final = {
    "as it should be": get(),
    "empty lines before": b"\r\n\r\n" + get(),
    "blanks between words": get(b"GET  /liveness  HTTP/1.1"),
    "query": get(b"GET /liveness?a=b&c HTTP/1.1"),
    "long query": get(b"GET /liveness?" + b"a" * 16_000 + b" HTTP/1.1"),
    "escaped letter in the query": get(b"GET /liveness?%6c HTTP/1.1"),
    "URL": get(b"GET http://other/liveness HTTP/1.1"),
    "Host of an IPv6 address": get(host=b"Host: [::1]:80\r\n"),
    "Host that is none": get(host=b"Host: u@t/x, y\r\n"),
    "Host of nothing": get(host=b"Host:\r\n"),
    "a hundred headers": get(b"GET /liveness HTTP/1.1", *[b"X-%d: a" % n for n in range(100)]),
    "value in UTF-8": get(b"GET /liveness HTTP/1.1", b"X-A: \xc3\xa9"),
    "value in no UTF-8": get(b"GET /liveness HTTP/1.1", b"X-A: \xff"),
    "upgrade to h2c": get(b"GET /liveness HTTP/1.1", b"Connection: Upgrade", b"Upgrade: h2c"),
    "body of a GET": get(b"GET /liveness HTTP/1.1", b"Content-Length: 5") + b"hello",
    "length with a blank after": post(LENGTH + b" "),
    "length after a tab": post(b"Content-Length:\t%d" % len(BODY)),
    "length with zeros": post(b"Content-Length: 000%d" % len(BODY)),
    "length with an underscore in its name": post(LENGTH, b"Content_Length: 5"),
    "coding with an underscore in its name": post(LENGTH, b"Transfer_Encoding: chunked"),
    "session with an underscore in its name": post(LENGTH, b"X_Session_Id: other"),
    "expectation that nobody knows": post(LENGTH, b"Expect: miracles"),
    "chunked in capitals": post(b"Transfer-Encoding: CHUNKED", body=chunked(BODY)),
    "extension of a chunk": chunks(b"%b;a=b\r\n%b\r\n0;c\r\n\r\n" % (SIZE, BODY)),
    "last chunk of many zeros": chunks(chunked(BODY)[:-5] + b"0000\r\n\r\n"),
    "trailer": chunks(chunked(BODY)[:-2] + b"X-A: a\r\n\r\n"),
    "session in the trailer": chunks(chunked(BODY)[:-2] + b"X-Session-Id: other\r\n\r\n"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.fault("F67", "F68")
async def test_f67_f68_refused_is_400_and_the_end(shared: Instance, name: str) -> None:
    async with Connection(shared.port) as connection:
        await connection.send(REFUSED[name] + HIDDEN)
        answer = await connection.answer()
        assert (answer.status, answer.code) == (400, "INVALID_REQUEST")
        assert answer.headers["x-request-id"]
        for word in (b"Traceback", b".py", b"aiohttp"):
            assert word not in answer.body
        assert await connection.is_closed(within=5), "what follows cannot be understood"


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.fault("F67")
async def test_f67_taken_leaves_the_connection_where_it_should_be(shared: Instance, name: str) -> None:
    async with Connection(shared.port) as connection:
        await connection.send(TAKEN[name])
        assert (await connection.answer()).status == 200
        await connection.send(request("GET", "/nothing"))
        assert (await connection.answer()).status == 404


@pytest.mark.fault("F68")
async def test_f68_chunk_that_breaks_later_than_its_head(shared: Instance) -> None:
    """The parser gives up when the request is being handled already, which must not wait for the rest."""
    for piece in (b"nonsense\r\n", SIZE + b"\r\n" + BODY + b"nonsense\r\n"):
        async with Connection(shared.port) as connection:
            await connection.send(chunks(b"5\r\n{    \r\n"))
            assert (await call(shared.port, "GET", "/liveness")).status == 200  # it has been taken up by now
            await connection.send(piece + HIDDEN)
            answer = await connection.answer()
            assert (answer.status, answer.code) == (400, "INVALID_REQUEST")
            assert await connection.is_closed(within=5)


@pytest.mark.fault("F68")
async def test_f68_extension_without_end_costs_no_memory(shared: Instance) -> None:
    async with Connection(shared.port) as connection:
        await connection.send(chunks(SIZE + b";" + b"a" * 10_000_000 + b"\r\n" + BODY + b"\r\n0\r\n\r\n"))
        assert (await connection.answer()).status == 200


async def test_after_all_that_the_instance_is_well(shared: Instance) -> None:
    health, log = await call(shared.port, "GET", "/health"), await asyncio.to_thread(lambda: shared.log)
    assert health.json["status"] == "healthy"
    # What workers print is theirs, all lines of it: tests share the instance whose Apps raise.
    records = re.split(r"\n(?! )", log)
    ours = "\n".join(record for record in records if " worker=" not in record.partition("\n")[0])
    for sign in ("request failed", "Traceback", "Unhandled"):
        assert sign not in ours, "nothing of the above was an error of ours"
