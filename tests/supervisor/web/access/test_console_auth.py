"""Which browsers are signed in to the console, and for how long."""

from typing import Any

from agentscope_supervisor.web.access.console_auth import COOKIE_LASTS, MAX_BROWSERS, SignIns
from tests.supervisor.web.access.given_tokens import OPS, WEB, tokens

HOST = {"host": "localhost:8080"}
OURS = {**HOST, "sec-fetch-site": "same-origin", "origin": "http://localhost:8080"}
URL = "http://localhost:8080"
NOW = 1000.0


def brought(cookie: str) -> str:
    """What a browser sends back of a Set-Cookie."""
    return cookie.partition(";")[0]


def with_tokens(*given: dict[str, Any], auth_token: str | None = None) -> SignIns:
    return SignIns(URL, "link", tokens(*given, auth_token=auth_token))


def test_the_secret_is_compared_whole() -> None:
    for sign_ins in (with_tokens(auth_token="s3cret"), SignIns(URL, "s3cret", tokens())):
        assert sign_ins.is_secret("s3cret")
        for given in ("", "s3cre", "s3crets", "S3CRET", "s3cret ", "link", "\ud800"):
            assert not sign_ins.is_secret(given)


def test_operators_sign_in_with_their_token_and_without_one_by_the_link() -> None:
    assert with_tokens().takes_link
    assert with_tokens(WEB).takes_link
    sign_ins = with_tokens(WEB, OPS, auth_token="t")
    assert not sign_ins.takes_link
    assert [sign_ins.is_secret(given) for given in ("o", "t", "w", "link")] == [True, True, False, False]


def test_browsers_are_signed_out_when_a_token_does_not_sign_in_any_more() -> None:
    sign_ins = with_tokens(OPS)
    asked = {**OURS, "cookie": brought(sign_ins.sign_in("value", OURS, NOW))}
    sign_ins.take_over(tokens(OPS, WEB, auth_token="t"))
    assert sign_ins.is_in(asked, NOW)
    assert sign_ins.is_secret("t")
    sign_ins.take_over(tokens(WEB, auth_token="t"))
    assert not sign_ins.is_in(asked, NOW)
    assert not sign_ins.is_secret("o")


def test_the_link_can_be_replaced() -> None:
    sign_ins = SignIns(URL, "first", tokens())
    sign_ins.link = "second"
    assert not sign_ins.is_secret("first")
    assert sign_ins.is_secret("second")


def test_the_cookie_counts_for_the_own_page_only() -> None:
    sign_ins = with_tokens()
    cookie = brought(sign_ins.sign_in("value", OURS, NOW))
    assert sign_ins.is_in({**OURS, "cookie": cookie}, NOW)
    assert sign_ins.is_in({**OURS, "cookie": f"a=b; {cookie}; c"}, NOW)
    assert not sign_ins.is_in({**OURS, "cookie": cookie, "sec-fetch-site": "cross-site"}, NOW)
    assert not sign_ins.is_in({**HOST, "cookie": cookie}, NOW)
    assert not sign_ins.is_in(OURS, NOW)
    name = cookie.partition("=")[0]
    for wrong in (
        cookie[:-1],
        cookie + "0",
        cookie.replace("=", "", 1),
        "x" + cookie,
        name,
        f"{name}=\udcff",
    ):
        assert not sign_ins.is_in({**OURS, "cookie": wrong}, NOW)


def test_a_sign_in_ends_after_its_time_or_by_a_sign_out() -> None:
    sign_ins = with_tokens()
    first = {**OURS, "cookie": brought(sign_ins.sign_in("one", OURS, NOW))}
    second = {**OURS, "cookie": brought(sign_ins.sign_in("two", OURS, NOW))}
    assert sign_ins.is_in(first, NOW + COOKIE_LASTS - 1)
    assert not sign_ins.is_in(first, NOW + COOKIE_LASTS)
    assert "Max-Age=0" in sign_ins.sign_out(first)
    assert not sign_ins.is_in(first, NOW)
    assert sign_ins.is_in(second, NOW)
    assert "Max-Age=0" in sign_ins.sign_out(OURS)


def test_the_number_of_browsers_is_limited() -> None:
    sign_ins = with_tokens()
    cookies = [brought(sign_ins.sign_in(str(number), OURS, NOW)) for number in range(MAX_BROWSERS + 1)]
    signed_in = [sign_ins.is_in({**OURS, "cookie": cookie}, NOW) for cookie in cookies]
    assert signed_in == [False] + [True] * MAX_BROWSERS


def test_scripts_and_other_sites_cannot_reach_the_cookie() -> None:
    sign_ins = with_tokens()
    cookie = sign_ins.sign_in("value", OURS, NOW)
    assert "s3cret" not in cookie
    assert cookie.split("; ")[1:] == [f"Max-Age={COOKIE_LASTS}", "HttpOnly", "SameSite=Strict"]
    secure = sign_ins.sign_in("value", {**OURS, "origin": "https://agents.example.com"}, NOW)
    assert secure.endswith("; Secure")


def test_instances_on_one_host_have_cookies_of_their_own() -> None:
    one, other = (SignIns(url, "s3cret", tokens()) for url in (URL, "http://localhost:8081"))
    cookie = brought(one.sign_in("value", OURS, NOW))
    assert cookie.partition("=")[0] != brought(other.sign_in("value", OURS, NOW)).partition("=")[0]
