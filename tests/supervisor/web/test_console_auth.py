"""Whom the console lets in: origins, this machine, names that are made to look like it, the cookie."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope_supervisor.web.console_auth import COOKIE_LASTS, ConsoleCookie, is_same_origin, local_refusal

HOST = {"host": "localhost:8080"}
OURS = {**HOST, "sec-fetch-site": "same-origin", "origin": "http://localhost:8080"}
TOKEN = b"s3cret"

SAME = {
    "browser that tells": OURS,
    "browser that tells, a GET": {**HOST, "sec-fetch-site": "same-origin"},
    "older browser": {**HOST, "origin": "http://localhost:8080"},
    "capitals": {"host": "LocalHost:8080", "origin": "http://localhost:8080"},
    "older browser, a GET": {**HOST, "referer": "http://localhost:8080/console"},
    "behind TLS": {"host": "agents.example.com", "origin": "https://agents.example.com"},
    "behind a proxy that changes the Host": {
        **HOST,
        "sec-fetch-site": "same-origin",
        "origin": "https://a.com",
    },
}
OTHER = {
    "says nothing": HOST,
    "another site": {**OURS, "sec-fetch-site": "cross-site"},
    "another port": {**OURS, "sec-fetch-site": "same-site"},
    "typed into the address bar": {**HOST, "sec-fetch-site": "none"},
    "older browser, another site": {**HOST, "origin": "http://evil.com"},
    "older browser, another port": {**HOST, "origin": "http://localhost:3000"},
    "older browser, sandboxed": {**HOST, "origin": "null", "referer": "http://localhost:8080/console"},
    "older browser, a GET": {**HOST, "referer": "http://evil.com/localhost:8080"},
    "prefix of the name": {"host": "localhost", "origin": "http://localhost.evil.com"},
    "no Host": {"origin": "http://"},
}


@pytest.mark.parametrize("name", SAME)
def test_our_own_page_is_known(name: str) -> None:
    assert is_same_origin(SAME[name])


@pytest.mark.parametrize("name", OTHER)
def test_whoever_is_not_our_page_is_not(name: str) -> None:
    assert not is_same_origin(OTHER[name])


# -- without a token -----------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "[::1]"])
def test_this_machine_is_let_in(peer: str, host: str) -> None:
    for headers in (
        {"host": host, "origin": f"http://{host}"},
        {"host": host, "sec-fetch-site": "same-origin"},
        {"host": host.upper(), "sec-fetch-site": "same-origin", "origin": f"http://{host}"},
        {"host": host, "referer": f"http://{host}/console"},
    ):
        assert local_refusal(peer, headers) == ""


@pytest.mark.parametrize(
    "peer, headers, why",
    [
        ("10.0.0.7", OURS, "this machine only"),
        ("::ffff:10.0.0.7", OURS, "this machine only"),
        ("", OURS, "this machine only"),
        ("127.0.0.1", {**OURS, "x-forwarded-for": "10.0.0.7"}, "this machine only"),
        ("127.0.0.1", {**OURS, "forwarded": "for=10.0.0.7"}, "this machine only"),
        ("127.0.0.1", {**OURS, "host": "evil.com:8080", "origin": "http://evil.com:8080"}, "no other name"),
        ("127.0.0.1", {**OURS, "host": "localhost.evil.com"}, "no other name"),
        ("127.0.0.1", {**OURS, "host": "10.0.0.7:8080"}, "no other name"),
        ("127.0.0.1", {"sec-fetch-site": "same-origin"}, "no other name"),
        ("127.0.0.1", {**OURS, "sec-fetch-site": "cross-site"}, "own page"),
        ("127.0.0.1", {**OURS, "origin": "https://public.example.com"}, "own page"),
        ("127.0.0.1", {**OURS, "origin": "null"}, "own page"),
        ("127.0.0.1", HOST, "own page"),
    ],
)
def test_strangers_are_refused_and_told_why(peer: str, headers: Mapping[str, str], why: str) -> None:
    assert why in local_refusal(peer, headers)


# -- the cookie ------------------------------------------------------------------------------------


def brought(cookie: str) -> str:
    """What a browser sends back of a Set-Cookie."""
    return cookie.partition(";")[0]


def test_the_token_is_compared_whole() -> None:
    asked = ConsoleCookie(TOKEN)
    assert asked.is_token("s3cret")
    for given_ in ("", "s3cre", "s3crets", "S3CRET", "s3cret ", "\ud800"):
        assert not asked.is_token(given_)


def test_the_cookie_lets_our_page_in_and_nobody_else() -> None:
    asked = ConsoleCookie(TOKEN)
    cookie = brought(asked.cookie(OURS))
    assert asked.is_held({**OURS, "cookie": cookie})
    assert asked.is_held({**OURS, "cookie": f"a=b; {cookie}; c"})
    assert not asked.is_held({**OURS, "cookie": cookie, "sec-fetch-site": "cross-site"})
    assert not asked.is_held({**HOST, "cookie": cookie})
    assert not asked.is_held(OURS)
    for wrong in (
        cookie[:-1],
        cookie + "0",
        cookie.replace("=", "", 1),
        "x" + cookie,
        cookie.partition("=")[0],
    ):
        assert not asked.is_held({**OURS, "cookie": wrong})
    assert not asked.is_held({**OURS, "cookie": cookie.partition("=")[0] + "=\udcff"})


def test_the_cookie_is_out_of_the_reach_of_scripts_and_other_sites() -> None:
    cookie = ConsoleCookie(TOKEN).cookie(OURS)
    assert TOKEN.decode() not in cookie
    fields = cookie.split("; ")[1:]
    assert fields == [f"Max-Age={COOKIE_LASTS}", "HttpOnly", "SameSite=Strict"]
    assert ConsoleCookie(TOKEN).cookie({**OURS, "origin": "https://agents.example.com"}).endswith("; Secure")


@given(st.binary(min_size=1), st.binary(min_size=1))
def test_a_cookie_is_of_one_token(one: bytes, other: bytes) -> None:
    cookie = brought(ConsoleCookie(one).cookie(OURS))
    assert ConsoleCookie(other).is_held({**OURS, "cookie": cookie}) is (one == other)
    assert ConsoleCookie(one).cookie(OURS) == ConsoleCookie(one).cookie(OURS)
