"""What a client may do wrong, and the answer that it gets: a status and a code, never a 500, no traceback."""

import gzip
import json
from typing import Any, Final

import pytest

from tests.harness.client import JSON, Connection, Response, call, new_session, request, turn_body
from tests.harness.instance import Instance

MB: Final = 1024 * 1024
DEPTH: Final = 100_000


def body(**changes: Any) -> bytes:
    """A good body with these keys changed; `...` removes one."""
    whole = {"session_id": new_session("bad"), "message": {"content": "x"}, **changes}
    return json.dumps({key: value for key, value in whole.items() if value is not ...}).encode()


def message(**fields: Any) -> bytes:
    return body(message={"content": "x", **fields})


def raw_session(escaped: str) -> bytes:
    """A body whose session_id is written as this JSON, to say what json.dumps would not."""
    return b'{"session_id": %b, "message": {"content": "x"}}' % escaped.encode("utf-8", "surrogatepass")


BAD_BODIES: Final = {
    "empty": b"",
    "blank": b" \n",
    "no JSON": b"session_id=x",
    "cut off": body()[:-1],
    "two values": body() + body(),
    "trailing comma": b'{"session_id": "x", "message": {"content": "x"},}',
    "single quotes": b"{'session_id': 'x'}",
    "NaN": b'{"session_id": "x", "message": {"content": "x"}, "metadata": {"a": NaN}}',
    "not UTF-8": b'{"session_id": "x", "message": {"content": "\xff\xfe"}}',
    "UTF-16": body().decode().encode("utf-16"),
    "overlong UTF-8": b'{"session_id": "\xc0\xaf", "message": {"content": "x"}}',
    "a list": b"[]",
    "a string": b'"text"',
    "a number": b"1",
    "null": b"null",
    "true": b"true",
    "deep list": b"[" * DEPTH + b"]" * DEPTH,
    "deep list, cut off": b"[" * DEPTH,
    "deep object": b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
    "deep metadata": body(metadata="@").replace(b'"@"', b'{"a":' + b"[" * DEPTH + b"]" * DEPTH + b"}"),
    "session_id number": body(session_id=7),
    "session_id true": body(session_id=True),
    "session_id list": body(session_id=["x"]),
    "session_id object": body(session_id={"x": 1}),
    "session_id empty": body(session_id=""),
    "session_id of 257": body(session_id="s" * 257),
    "session_id of 300": body(session_id="s" * 300),
    "session_id of 1 MB": body(session_id="s" * MB),
    "session_id with NUL": body(session_id="a\0b"),
    "session_id with line feed": body(session_id="a\nb"),
    "session_id with return": body(session_id="a\r"),
    "session_id with tab": body(session_id="\t"),
    "session_id with escape": body(session_id="\x1b[31m"),
    "session_id with DEL": body(session_id="a\x7f"),
    "session_id with C1 control": body(session_id="a\x85b"),
    "session_id lone high surrogate": raw_session('"\\ud800"'),
    "session_id lone low surrogate": raw_session('"x\\udc00y"'),
    "session_id raw surrogate": raw_session('"\ud800"'),
    "message missing": body(message=...),
    "message null": body(message=None),
    "message list": body(message=[{"content": "x"}]),
    "content missing": body(message={"role": "user"}),
    "content null": message(content=None),
    "content number": message(content=5),
    "content object": message(content={"type": "text", "text": "x"}),
    "content list of strings": message(content=["x"]),
    "content list of null": message(content=[None]),
    "block without type": message(content=[{"text": "x"}]),
    "block of no known type": message(content=[{"type": "no such type"}]),
    "block type number": message(content=[{"type": 1, "text": "x"}]),
    "text block without text": message(content=[{"type": "text"}]),
    "text block with number": message(content=[{"type": "text", "text": 7}]),
    "text block with list": message(content=[{"type": "text", "text": ["x"]}]),
    "role unknown": message(role="robot"),
    "role number": message(role=1),
    "role list": message(role=["user"]),
    "role null": message(role=None),
    "name number": message(name=1),
    "name object": message(name={}),
    "metadata list": body(metadata=[]),
    "metadata string": body(metadata="x"),
    "metadata number": body(metadata=0),
    "metadata null": body(metadata=None),
    "stream string": body(stream="yes"),
    "stream number": body(stream=1),
    "stream null": body(stream=None),
    "on_busy unknown": body(on_busy="maybe"),
    "on_busy number": body(on_busy=1),
    "on_busy list": body(on_busy=["queue"]),
}

GOOD_BODIES: Final = {
    "session_id missing": body(session_id=...),
    "session_id null": body(session_id=None),
    "message string": body(message="hello"),
    "session_id of 256": body(session_id="s" * 256),
    "session_id of 256 wide": body(session_id="字" * 256),
    "session_id path": body(session_id="../../etc/passwd"),
    "session_id absolute": body(session_id="/etc/passwd"),
    "session_id dot": body(session_id="."),
    "session_id right to left": body(session_id="\u202eabc"),
    "session_id astral": raw_session('"\\ud83e\\udd8a"'),
    "session_id blank": body(session_id=" "),
    "content empty": message(content=""),
    "content of no blocks": message(content=[]),
    "unknown key": body(unknown=1),
    "unknown key in message": message(unknown={"a": 1}),
    "depth within reason": body(metadata={"a": json.loads("[" * 100 + "]" * 100)}),
    "huge integer within metadata": body(metadata={"a": 2**63}),
}

DOUBTFUL_BODIES: Final = {
    "duplicate keys": b'{"session_id": "a", "session_id": "b", "message": {"content": "x"}}',
    "duplicate message": b'{"session_id": "a", "message": 1, "message": {"content": "x"}}',
    "1e400": b'{"session_id": "x", "message": {"content": "x"}, "metadata": {"a": 1e400}}',
    "integer of 4000 digits": b'{"session_id": "x", "message": {"content": "x"}, "metadata": {"a": %b}}'
    % (b"9" * 4000),
    "integer of 100000 digits": b'{"session_id": "x", "message": {"content": "x"}, "metadata": {"a": %b}}'
    % (b"9" * 100_000),
    "surrogate in content": b'{"session_id": "x", "message": {"content": "\\ud800"}}',
    "surrogate in metadata": b'{"session_id": "x", "message": {"content": "x"}, "metadata": {"\\ud800": 1}}',
    "byte order mark": b"\xef\xbb\xbf" + body(),
    "100000 keys": body(metadata={str(number): number for number in range(100_000)}),
}
"""Valid by the letter of JSON, and parsers differ: taken or refused, but nothing worse."""


def assert_refused(response: Response, status: int, code: str) -> None:
    """The form of every refusal."""
    assert (response.status, response.code) == (status, code), response.body[:500]
    assert response.headers["content-type"].startswith("application/json")
    assert response.headers["x-request-id"]
    error = response.json["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    assert len(error["message"]) < 2000, "what the client sent is not sent back at any length"
    for word in ("Traceback", 'File "', ".py"):
        assert word not in error["message"]


async def post(instance: Instance, data: bytes, **headers: str) -> Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await call(instance.port, "POST", "/invoke", body=data, headers={**JSON, **given})


@pytest.mark.parametrize("name", BAD_BODIES)
@pytest.mark.fault("F71", "F72")
async def test_f71_f72_bad_body_is_400(shared: Instance, name: str) -> None:
    assert_refused(await post(shared, BAD_BODIES[name]), 400, "INVALID_REQUEST")


@pytest.mark.parametrize("name", ["block of no known type", "text block without text", "deep metadata"])
async def test_bad_body_is_400_without_stream_too(shared: Instance, name: str) -> None:
    response = await post(shared, BAD_BODIES[name], Accept="application/json")
    assert_refused(response, 400, "INVALID_REQUEST")


@pytest.mark.parametrize("name", GOOD_BODIES)
async def test_odd_but_allowed_body_is_taken(shared: Instance, name: str) -> None:
    response = await post(shared, GOOD_BODIES[name], Accept="application/json")
    assert response.status == 200, response.body[:500]


@pytest.mark.parametrize("name", DOUBTFUL_BODIES)
@pytest.mark.fault("F72")
async def test_f72_doubtful_body_is_taken_or_refused(shared: Instance, name: str) -> None:
    response = await post(shared, DOUBTFUL_BODIES[name], Accept="application/json")
    if response.status != 200:
        assert_refused(response, 400, "INVALID_REQUEST")
    assert response.seconds < 10


@pytest.mark.fault("F71")
async def test_f71_hostile_session_ids_write_no_file_outside_their_folder(shared: Instance) -> None:
    before = {path for path in shared.project.parent.rglob("*") if "sessions" not in path.parts}
    for session in ("../outside", "/tmp/outside-of-everything", "..", "a/b/c", "NUL", "x" * 256):
        response = await post(shared, turn_body(session, [{"count": 1}], stream=False))
        assert response.status == 200, response.body
    after = {path for path in shared.project.parent.rglob("*") if "sessions" not in path.parts}
    assert {path for path in after - before if "__pycache__" not in path.parts} == set()


# -- the session as a header ---------------------------------------------------------------------


async def test_header_and_body_must_name_the_same_session(shared: Instance) -> None:
    same = await post(shared, body(session_id="same"), X_Session_Id="same")
    assert same.status == 200
    assert_refused(await post(shared, body(session_id="a"), X_Session_Id="b"), 400, "INVALID_REQUEST")
    assert_refused(await post(shared, body(session_id=...), X_Session_Id="h" * 257), 400, "INVALID_REQUEST")


async def test_the_session_must_be_named_once(shared: Instance) -> None:
    """Of two headers a balancer may read the other one."""
    data = body(session_id="same")
    for second in (b"same", b"other"):
        async with Connection(shared.port) as connection:
            whole = request("POST", "/invoke", data, {**JSON, "X-Session-Id": "same"})
            await connection.send(whole.replace(b"\r\n", b"\r\nX-Session-Id: " + second + b"\r\n", 1))
            assert_refused(await connection.answer(), 400, "INVALID_REQUEST")


# -- media types, sizes, methods, paths ------------------------------------------------------------


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/json; charset=latin-1",
        "nonsense",
        "application/jsonx",
    ],
)
async def test_another_media_type_is_415(shared: Instance, media_type: str) -> None:
    assert_refused(await post(shared, body(), Content_Type=media_type), 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-8", 'Application/JSON; charset="UTF-8"']
)
async def test_json_may_say_that_it_is_utf8(shared: Instance, media_type: str) -> None:
    assert (await post(shared, body(), Content_Type=media_type)).status == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "nonsense"])
async def test_compressed_body_is_415(shared: Instance, coding: str) -> None:
    """Nothing is unpacked, so that nothing small can become large."""
    bomb = gzip.compress(b"[" * 20 * MB)
    assert_refused(await post(shared, bomb, Content_Encoding=coding), 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.fault("F63")
async def test_f63_body_over_the_limit_is_413(shared: Instance) -> None:
    big = message(content="x" * (20 * MB))
    assert_refused(await post(shared, big), 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.fault("F63")
async def test_f63_announced_body_over_the_limit_is_413_before_it_is_sent(shared: Instance) -> None:
    async with Connection(shared.port) as connection:
        head = {**JSON, "Content-Length": str(20 * MB)}
        await connection.send(request("POST", "/invoke", headers=head))
        assert_refused(await connection.answer(), 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.fault("F63")
async def test_f63_chunked_body_over_the_limit_is_413(shared: Instance) -> None:
    """It has no end: the limit is what ends it."""
    async with Connection(shared.port) as connection:
        await connection.send(request("POST", "/invoke", headers={**JSON, "Transfer-Encoding": "chunked"}))
        chunk = b"%x\r\n%b\r\n" % (MB, b"x" * MB)
        for _ in range(20):
            await connection.send(chunk)
        assert_refused(await connection.answer(), 413, "PAYLOAD_TOO_LARGE")


async def test_body_just_below_the_limit_is_taken(shared: Instance) -> None:
    response = await post(shared, message(content="x" * (15 * MB)), Accept="application/json")
    assert response.status == 200
    assert len(response.body) > 15 * MB


@pytest.mark.parametrize(
    "method, path, allowed",
    [
        ("GET", "/invoke", "POST"),
        ("HEAD", "/invoke", "POST"),
        ("PUT", "/invoke", "POST"),
        ("DELETE", "/invoke", "POST"),
        ("OPTIONS", "/invoke", "POST"),
        ("PATCH", "/invoke", "POST"),
        ("GET", "/stop", "POST"),
        ("POST", "/health", "GET"),
        ("POST", "/readiness", "GET"),
        ("DELETE", "/", "GET"),
    ],
)
async def test_another_method_is_405(shared: Instance, method: str, path: str, allowed: str) -> None:
    response = await call(shared.port, method, path)
    assert allowed in response.headers["allow"].split(", ")
    assert response.headers["x-request-id"]
    if method == "HEAD":
        assert (response.status, response.body) == (405, b"")
    else:
        assert_refused(response, 405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/invoke//", "/Invoke", "/invoke/x", "//invoke", "/%00", "/..%2finvoke", "/" + "x" * 4000],
)
async def test_unknown_path_is_404(shared: Instance, path: str) -> None:
    assert_refused(await call(shared.port, "GET", path), 404, "NOT_FOUND")


# -- /stop -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"{",
        b'{"session_id": 1}',
        b'{"session_id": ""}',
        b'{"session_id": null}',
        b'{"run_id": 1}',
        b'{"session_id": "a\\n"}',
    ],
)
async def test_bad_stop_is_400(shared: Instance, data: bytes) -> None:
    response = await call(shared.port, "POST", "/stop", body=data, headers=JSON)
    assert_refused(response, 400, "INVALID_REQUEST")


# -- X-Request-Id ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", "/", 200),
        ("GET", "/health", 200),
        ("GET", "/readiness", 200),
        ("GET", "/liveness", 200),
        ("GET", "/nothing", 404),
        ("GET", "/invoke", 405),
        ("POST", "/invoke", 400),
        ("POST", "/stop", 400),
    ],
)
async def test_a_sane_request_id_is_on_every_answer(
    shared: Instance, method: str, path: str, status: int
) -> None:
    data = b"nonsense" if method == "POST" else None
    headers = {**JSON, "X-Request-Id": "req_1.2-3"}
    response = await call(shared.port, method, path, body=data, headers=headers)
    assert (response.status, response.headers["x-request-id"]) == (status, "req_1.2-3")


@pytest.mark.parametrize("given", ["", "x" * 5000, "a b", "a\x7fb", "<script>", "a\u00e9"])
async def test_an_odd_request_id_is_replaced(shared: Instance, given: str) -> None:
    response = await call(shared.port, "GET", "/", headers={"X-Request-Id": given})
    answered = response.headers.get("x-request-id")
    assert answered
    assert answered != given


async def test_request_ids_of_ours_differ(shared: Instance) -> None:
    ids = {(await call(shared.port, "GET", "/")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
