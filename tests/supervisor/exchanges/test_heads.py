"""The heads of an exchange: what passes between client and app, and what does not."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope_supervisor.exchanges.heads import (
    Arrival,
    BadHead,
    Framing,
    TrustedProxies,
    is_blocked,
    request_head,
    response_head,
    websocket_headers,
)

PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8::/32", "127.0.0.1"])
GET = Arrival("GET", "/a%20b?q=%20&r", [(b"Host", b"h"), (b"X-A", b"1")], ("10.0.0.1", 5), ("10.0.0.2", 80))


def behind(*headers: tuple[bytes, bytes], peer: str = "10.0.0.1", **more: bool) -> Arrival:
    return replace(GET, headers=[(b"Host", b"h"), *headers], peer=(peer, 5), **more)


# -- requests --------------------------------------------------------------------------------


def test_the_app_gets_target_and_headers_as_they_were_sent() -> None:
    head = request_head(GET, PROXIES)
    assert (head.method, head.path, head.query) == ("GET", b"/a%20b", b"q=%20&r")
    assert head.headers == ((b"host", b"h"), (b"x-a", b"1"))
    assert (head.client, head.server, head.scheme) == (("10.0.0.1", 5), ("10.0.0.2", 80), "http")


def test_headers_of_the_connection_do_not_pass() -> None:
    arrival = behind(
        (b"Connection", b"close, X-Hop"),
        (b"X-Hop", b"1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"TE", b"trailers"),
        (b"Authorization", b"Bearer t"),
        (b"Cookie", b"a"),
    )
    assert request_head(arrival, PROXIES, b"authorization").headers == ((b"host", b"h"), (b"cookie", b"a"))


@pytest.mark.parametrize(
    "target,path,query",
    [
        ("http://h:80/p?q", b"/p", b"q"),
        ("https://h", b"/", b""),
        ("http://h?q", b"/", b"q"),
        ("*", b"/", b""),
        ("/p?a?b", b"/p", b"a?b"),
        ("/\udcff", b"/\xff", b""),
    ],
)
def test_each_form_of_a_target_has_a_path_and_a_query(target: str, path: bytes, query: bytes) -> None:
    head = request_head(replace(GET, target=target), PROXIES)
    assert (head.path, head.query) == (path, query)


def test_forwarded_headers_of_a_trusted_proxy_count() -> None:
    forwarded = (
        (b"X-Forwarded-For", b"6.6.6.6, 9.9.9.9 , 10.1.1.1"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"app.example, inner"),
    )
    head = request_head(behind(*forwarded), PROXIES)
    assert (head.client, head.scheme, head.headers[0]) == (("9.9.9.9", 0), "https", (b"host", b"app.example"))
    assert request_head(behind(*forwarded, is_websocket=True), PROXIES).scheme == "wss"
    mapped = request_head(behind(*forwarded, peer="::ffff:10.0.0.1"), PROXIES)
    assert mapped.client == ("9.9.9.9", 0)


@pytest.mark.parametrize("peer", ["11.0.0.1", "name", "2001:db9::1"])
def test_forwarded_headers_of_others_pass_and_do_not_count(peer: str) -> None:
    head = request_head(
        behind((b"X-Forwarded-For", b"9.9.9.9"), (b"X-Forwarded-Proto", b"https"), peer=peer), PROXIES
    )
    assert (head.client, head.scheme) == ((peer, 5), "http")
    assert (b"x-forwarded-for", b"9.9.9.9") in head.headers


def test_without_proxies_or_addresses_nothing_is_forwarded() -> None:
    assert not TrustedProxies([]).trusts("10.0.0.1")
    assert request_head(replace(GET, peer=None), PROXIES).client is None
    assert request_head(behind(), PROXIES).client == ("10.0.0.1", 5)
    assert PROXIES.client("10.0.0.3, 10.0.0.4") == "10.0.0.3"
    assert PROXIES.client(" , ") == ""


def test_a_websocket_offers_its_subprotocols() -> None:
    offered = ((b"Sec-WebSocket-Protocol", b"chat, "), (b"Sec-WebSocket-Protocol", b"other"))
    head = request_head(behind(*offered, is_websocket=True), PROXIES)
    assert (head.scheme, head.subprotocols) == ("ws", ("chat", "other"))
    assert request_head(behind(*offered), PROXIES).subprotocols == ()


@pytest.mark.parametrize(
    "hosted,path,blocked",
    [
        ("agentapp", "/shutdown", True),
        ("agentapp", "/%73hutdown", True),
        ("agentapp", "/admin/status", True),
        ("agentapp", "/administer", False),
        ("asgi", "/shutdown", False),
    ],
)
def test_routes_that_end_one_worker_are_blocked(hosted: str, path: str, blocked: bool) -> None:
    assert is_blocked(hosted, path) is blocked


# -- responses -----------------------------------------------------------------------------------


def test_the_response_has_the_apps_headers_and_those_that_it_lacks() -> None:
    headers = [(b"X-A", b"1"), (b"X-A", b"2"), (b"Date", b"then"), (b"Keep-Alive", b"5")]
    head = response_head("GET", 200, headers, {b"date": b"now", b"server": b"us"}, is_http_1_0=False)
    assert head.lines == (
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\nX-A: 2\r\nDate: then\r\nserver: us\r\ntransfer-encoding: chunked\r\n"
    )
    assert (head.framing, head.closes) == (Framing.CHUNKED, False)


LENGTH = (b"Content-Length", b"5")


@pytest.mark.parametrize(
    "method,status,headers,old,framing",
    [
        ("GET", 200, [LENGTH], False, Framing.LENGTH),
        ("GET", 200, [LENGTH, LENGTH], True, Framing.LENGTH),
        ("GET", 200, [], True, Framing.CLOSE),
        ("HEAD", 200, [LENGTH], False, Framing.NONE),
        ("HEAD", 200, [], False, Framing.NONE),
        ("GET", 204, [LENGTH], False, Framing.NONE),
        ("GET", 304, [LENGTH], False, Framing.NONE),
        ("GET", 799, [(b"Transfer-Encoding", b"gzip")], False, Framing.CHUNKED),
    ],
)
def test_each_response_has_one_framing(
    method: str, status: int, headers: list[tuple[bytes, bytes]], old: bool, framing: Framing
) -> None:
    head = response_head(method, status, headers, {}, is_http_1_0=old)
    assert head.framing is framing
    assert head.lines.startswith(b"HTTP/1.0 " if old else b"HTTP/1.1 ")
    has_length = (method, status) != ("GET", 204) and LENGTH in headers
    assert head.lines.count(b"Content-Length") == has_length
    assert (b"chunked" in head.lines) is (framing is Framing.CHUNKED)
    if framing is Framing.LENGTH:
        assert head.length == 5


def test_the_app_can_end_the_connection() -> None:
    head = response_head("GET", 200, [(b"connection", b"Close"), LENGTH], {}, is_http_1_0=False)
    assert head.closes
    assert b"onnection" not in head.lines


@pytest.mark.parametrize(
    "status,headers",
    [
        (101, []),
        (1000, []),
        (200, [(b"", b"")]),
        (200, [(b"x y", b"")]),
        (200, [(b"x", b"a\nb")]),
        (200, [(b"content-length", b"-1")]),
        (200, [(b"content-length", b"9" * 19)]),
        (200, [LENGTH, (b"content-length", b"6")]),
    ],
)
def test_a_head_that_cannot_be_sent_is_refused(status: int, headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(BadHead):
        response_head("GET", status, headers, {}, is_http_1_0=False)


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=4))
def test_no_header_of_an_app_adds_a_line(headers: list[tuple[bytes, bytes]]) -> None:
    try:
        head = response_head("GET", 200, headers, {}, is_http_1_0=False)
    except BadHead:
        return
    assert head.lines.count(b"\r") == head.lines.count(b"\n") <= 2 + len(headers)


def test_a_handshake_has_the_apps_subprotocol_and_headers() -> None:
    headers = [
        (b"Sec-WebSocket-Protocol", b"chat"),
        (b"Sec-WebSocket-Accept", b"x"),
        (b"Upgrade", b"x"),
        (b"X-A", b"1"),
    ]
    assert websocket_headers(headers) == ("chat", [("X-A", "1")])
    assert websocket_headers([]) == (None, [])
    with pytest.raises(BadHead):
        websocket_headers([(b"x", b"\r")])
