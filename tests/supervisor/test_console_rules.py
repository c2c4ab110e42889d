"""Whom the console lets in: origins, this machine, names that are made to look like it, the cookie."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope_supervisor.console_rules import COOKIE_LASTS, Pass, is_same_origin, local_refusal

HOST = {"Host": "localhost:8080"}
OURS = {**HOST, "Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8080"}
TOKEN = b"s3cret"

SAME = {
    "browser that tells": OURS,
    "browser that tells, a GET": {**HOST, "Sec-Fetch-Site": "same-origin"},
    "older browser": {**HOST, "Origin": "http://localhost:8080"},
    "capitals": {"Host": "LocalHost:8080", "Origin": "http://localhost:8080"},
    "older browser, a GET": {**HOST, "Referer": "http://localhost:8080/console"},
    "behind TLS": {"Host": "agents.example.com", "Origin": "https://agents.example.com"},
    "behind a proxy that changes the Host": {
        **HOST,
        "Sec-Fetch-Site": "same-origin",
        "Origin": "https://a.com",
    },
}
OTHER = {
    "says nothing": HOST,
    "another site": {**OURS, "Sec-Fetch-Site": "cross-site"},
    "another port": {**OURS, "Sec-Fetch-Site": "same-site"},
    "typed into the address bar": {**HOST, "Sec-Fetch-Site": "none"},
    "older browser, another site": {**HOST, "Origin": "http://evil.com"},
    "older browser, another port": {**HOST, "Origin": "http://localhost:3000"},
    "older browser, sandboxed": {**HOST, "Origin": "null", "Referer": "http://localhost:8080/console"},
    "older browser, a GET": {**HOST, "Referer": "http://evil.com/localhost:8080"},
    "prefix of the name": {"Host": "localhost", "Origin": "http://localhost.evil.com"},
    "no Host": {"Origin": "http://"},
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
        {"Host": host, "Origin": f"http://{host}"},
        {"Host": host, "Sec-Fetch-Site": "same-origin"},
        {"Host": host.upper(), "Sec-Fetch-Site": "same-origin", "Origin": f"http://{host}"},
        {"Host": host, "Referer": f"http://{host}/console"},
    ):
        assert local_refusal(peer, headers) == ""


@pytest.mark.parametrize(
    "peer, headers, why",
    [
        ("10.0.0.7", OURS, "this machine only"),
        ("::ffff:10.0.0.7", OURS, "this machine only"),
        ("", OURS, "this machine only"),
        ("127.0.0.1", {**OURS, "X-Forwarded-For": "10.0.0.7"}, "this machine only"),
        ("127.0.0.1", {**OURS, "Forwarded": "for=10.0.0.7"}, "this machine only"),
        ("127.0.0.1", {**OURS, "Host": "evil.com:8080", "Origin": "http://evil.com:8080"}, "no other name"),
        ("127.0.0.1", {**OURS, "Host": "localhost.evil.com"}, "no other name"),
        ("127.0.0.1", {**OURS, "Host": "10.0.0.7:8080"}, "no other name"),
        ("127.0.0.1", {"Sec-Fetch-Site": "same-origin"}, "no other name"),
        ("127.0.0.1", {**OURS, "Sec-Fetch-Site": "cross-site"}, "own page"),
        ("127.0.0.1", {**OURS, "Origin": "https://public.example.com"}, "own page"),
        ("127.0.0.1", {**OURS, "Origin": "null"}, "own page"),
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
    asked = Pass(TOKEN)
    assert asked.is_token("s3cret")
    for given_ in ("", "s3cre", "s3crets", "S3CRET", "s3cret ", "\ud800"):
        assert not asked.is_token(given_)


def test_the_cookie_lets_our_page_in_and_nobody_else() -> None:
    asked = Pass(TOKEN)
    cookie = brought(asked.cookie(OURS))
    assert asked.is_held({**OURS, "Cookie": cookie})
    assert asked.is_held({**OURS, "Cookie": f"a=b; {cookie}; c"})
    assert not asked.is_held({**OURS, "Cookie": cookie, "Sec-Fetch-Site": "cross-site"})
    assert not asked.is_held({**HOST, "Cookie": cookie})
    assert not asked.is_held(OURS)
    for wrong in (
        cookie[:-1],
        cookie + "0",
        cookie.replace("=", "", 1),
        "x" + cookie,
        cookie.partition("=")[0],
    ):
        assert not asked.is_held({**OURS, "Cookie": wrong})
    assert not asked.is_held({**OURS, "Cookie": cookie.partition("=")[0] + "=\udcff"})


def test_the_cookie_is_out_of_the_reach_of_scripts_and_other_sites() -> None:
    cookie = Pass(TOKEN).cookie(OURS)
    assert TOKEN.decode() not in cookie
    fields = cookie.split("; ")[1:]
    assert fields == [f"Max-Age={COOKIE_LASTS}", "HttpOnly", "SameSite=Strict"]
    assert Pass(TOKEN).cookie({**OURS, "Origin": "https://agents.example.com"}).endswith("; Secure")


@given(st.binary(min_size=1), st.binary(min_size=1))
def test_a_cookie_is_of_one_token(one: bytes, other: bytes) -> None:
    cookie = brought(Pass(one).cookie(OURS))
    assert Pass(other).is_held({**OURS, "Cookie": cookie}) is (one == other)
    assert Pass(one).cookie(OURS) == Pass(one).cookie(OURS)
