"""Who a caller is, by its token, and what the caller may do."""

from agentscope_supervisor.web.access.tokens import CLIENT, EVERYTHING
from tests.supervisor.web.access.given_tokens import OPS, WEB, tokens


def test_a_caller_has_the_name_and_the_scopes_of_its_token() -> None:
    both = tokens(WEB, OPS)
    web, ops = both.find("w"), both.find("o")
    assert web is not None
    assert ops is not None
    assert (web.name, web.scopes) == ("web", {"use"})
    assert (ops.name, ops.scopes) == ("ops", {"operate", "metrics"})
    assert web.key != ops.key
    for wrong in ("", "W", "w ", OPS["token_sha256"], "\ud800"):
        assert both.find(str(wrong)) is None


def test_a_new_token_of_the_same_name_is_the_same_caller() -> None:
    before, after = tokens(WEB).find("w"), tokens({"name": "web", "token": "new"}).find("new")
    assert before == after
    assert tokens({"name": "web", "token": "new"}).find("w") is None


def test_the_token_of_the_server_section_is_one_of_a_client() -> None:
    both = tokens(OPS, auth_token="t")
    caller = both.find("t")
    assert caller is both.common
    assert caller.scopes == CLIENT
    assert both.console.scopes == EVERYTHING
    assert both.console.key == caller.key
    assert tokens(auth_token="other").common.key != caller.key


def test_tokens_are_required_if_there_is_one() -> None:
    assert not tokens().is_required
    assert tokens(WEB).is_required
    assert tokens(auth_token="t").is_required


def test_metrics_need_a_token_if_one_has_the_scope() -> None:
    assert tokens(WEB, OPS).guards_metrics
    assert not tokens(WEB, auth_token="t").guards_metrics
