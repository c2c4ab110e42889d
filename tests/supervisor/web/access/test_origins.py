"""Which web pages, and which names of the instance, are served."""

from collections.abc import Mapping
from typing import Any

import pytest

from agentscope_protocol.config.settings import ServerSettings
from agentscope_supervisor.domain.errors import ErrorCode
from agentscope_supervisor.web.access.origins import Origins, host_name, is_local, is_same_origin

HOST = {"host": "localhost:8080"}
OURS = {**HOST, "sec-fetch-site": "same-origin", "origin": "http://localhost:8080"}
APP = "https://app.example.com"


def origins(**settings: Any) -> Origins:
    return Origins(ServerSettings.model_validate(settings), has_token="auth_token" in settings)


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
def test_the_own_page_is_recognized(name: str) -> None:
    assert is_same_origin(SAME[name])


@pytest.mark.parametrize("name", OTHER)
def test_other_senders_are_not_the_own_page(name: str) -> None:
    assert not is_same_origin(OTHER[name])


# -- pages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        HOST,  # no browser
        OURS,
        {**HOST, "sec-fetch-site": "none"},
        {**HOST, "origin": "http://localhost:8080"},
        {**HOST, "sec-fetch-site": "cross-site", "origin": APP},
        {**HOST, "origin": APP},
    ],
)
def test_programs_the_own_page_and_configured_pages_are_served(headers: Mapping[str, str]) -> None:
    assert origins(cors_origins=[APP]).refusal(headers) is None


@pytest.mark.parametrize("token", [None, "t0ken"])
@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://localhost:3000"},
        {"sec-fetch-site": "cross-site", "origin": "https://evil.com"},
        {"origin": "https://evil.com"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": f"{APP}.evil.com"},
        {"origin": APP.upper()},
    ],
)
def test_other_pages_are_refused(token: str | None, headers: Mapping[str, str]) -> None:
    failure = origins(cors_origins=[APP], auth_token=token).refusal(HOST | headers)
    assert failure is not None
    assert failure.code is ErrorCode.FORBIDDEN
    assert "server.cors_origins" in failure.message


def test_configured_pages_may_read_responses() -> None:
    configured = origins(cors_origins=[APP])
    assert configured.headers({"origin": APP})["Access-Control-Allow-Origin"] == APP
    assert configured.headers({"origin": "https://evil.com"}) == {}
    assert configured.headers({}) == {}


def test_preflights_of_configured_pages_are_answered() -> None:
    configured = origins(cors_origins=[APP])
    asked = {"origin": APP, "access-control-request-method": "POST"}
    granted = configured.preflight("OPTIONS", asked, ("POST",))
    assert granted["Access-Control-Allow-Origin"] == APP
    assert granted["Access-Control-Allow-Methods"] == "POST"
    assert "Authorization" in granted["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in granted
    assert configured.preflight("POST", asked, ("POST",)) == {}
    assert configured.preflight("OPTIONS", {"origin": APP}, ("POST",)) == {}
    assert configured.preflight("OPTIONS", asked | {"origin": "https://evil.com"}, ("POST",)) == {}


# -- hosted apps -----------------------------------------------------------------------------------

FOREIGN = {**HOST, "sec-fetch-site": "cross-site", "origin": "https://evil.com"}
SOCKET = {"upgrade": "websocket"}


@pytest.mark.parametrize(
    "method, headers",
    [
        ("POST", FOREIGN),
        ("DELETE", {**HOST, "origin": "https://evil.com"}),
        ("POST", {**HOST, "origin": "null"}),
        ("POST", {**HOST, "sec-fetch-site": "cross-site"}),
        ("POST", {**HOST, "origin": "http://localhost.evil.com"}),
        ("GET", FOREIGN | SOCKET),
        ("GET", {**HOST, **SOCKET, "origin": "http://evil.com"}),
    ],
)
def test_without_a_token_a_page_changes_nothing_in_a_hosted_app(
    method: str, headers: Mapping[str, str]
) -> None:
    failure = origins(cors_origins=[APP]).hosted_refusal(method, headers)
    assert failure is not None
    assert "server.cors_origins" in failure.message
    assert origins(auth_token="t0ken").hosted_refusal(method, headers) is None
    assert origins(open=True).hosted_refusal(method, headers) is None


@pytest.mark.parametrize(
    "method, headers",
    [
        ("POST", HOST),
        ("POST", OURS),
        ("GET", FOREIGN),
        ("OPTIONS", FOREIGN),
        ("GET", {**HOST, **SOCKET}),
        ("GET", OURS | SOCKET),
        ("POST", {**HOST, "sec-fetch-site": "same-site", "origin": "http://localhost:3000"}),
        ("POST", {**HOST, "sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:3000"}),
        ("POST", {**HOST, "sec-fetch-site": "cross-site", "origin": "https://agents.example.com"}),
        ("POST", {**HOST, "sec-fetch-site": "cross-site", "origin": APP}),
    ],
)
def test_other_requests_are_for_the_hosted_app_to_judge(method: str, headers: Mapping[str, str]) -> None:
    configured = origins(cors_origins=[APP], hosts=["agents.example.com"])
    assert configured.hosted_refusal(method, headers) is None


def test_a_name_that_resolves_to_this_machine_reads_nothing_of_a_hosted_app() -> None:
    headers = {"host": "evil.com", "sec-fetch-site": "same-origin"}
    assert origins().hosted_refusal("GET", headers) is not None
    assert origins(open=True).hosted_refusal("GET", headers) is not None


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host, name",
    [
        ("localhost", "localhost"),
        ("LOCALHOST:8080", "localhost"),
        ("localhost.:80", "localhost"),
        ("127.0.0.1:8080", "127.0.0.1"),
        ("[::1]:8080", "::1"),
        ("[::1]", "::1"),
        ("", ""),
        ("localhost@evil.com", ""),
        ("localhost:80:80", ""),
        ("[::1]evil.com", ""),
        ("evil.com/localhost", ""),
    ],
)
def test_the_name_in_a_host(host: str, name: str) -> None:
    assert host_name(host) == name


def test_local_names() -> None:
    for name in ("localhost", "127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
        assert is_local(name), name
    for name in ("", "0.0.0.0", "::", "10.0.0.7", "::ffff:10.0.0.7", "localhost.evil.com", "evil.com"):
        assert not is_local(name), name


def test_without_a_token_only_local_and_configured_names_are_served() -> None:
    guarded = origins(hosts=["Agents.internal", "10.0.0.7", "FD00::7"])
    for host in ("localhost:1", "agents.internal", "AGENTS.INTERNAL:80", "10.0.0.7:8080", "[fd00::7]:8080"):
        assert guarded.refusal({"host": host}) is None, host
    assert guarded.refusal({}) is None  # HTTP/1.0; every browser sends it
    for host in ("evil.com", "localhost.evil.com", "10.0.0.8", "x.agents.internal", "", "a b"):
        failure = guarded.refusal({"host": host, "sec-fetch-site": "same-origin"})
        assert failure is not None
        assert (failure.code, "server.hosts" in failure.message) == (ErrorCode.FORBIDDEN, True)


def test_with_a_token_any_name_is_served() -> None:
    assert origins(auth_token="t0ken").refusal({"host": "agents.example.com"}) is None
