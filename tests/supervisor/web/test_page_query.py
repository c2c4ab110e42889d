"""The query of a list: bounds of the limit, and places that were returned before."""

import pytest

from agentscope_supervisor.domain.errors import Refused
from agentscope_supervisor.web import page_query

PLACE = (7, "0" * 32)


def test_defaults() -> None:
    assert (page_query.limit({}), page_query.after({})) == (page_query.AT_ONCE, None)
    assert page_query.limit({}, 20, 100) == 20


def test_given_values() -> None:
    assert page_query.limit({"limit": "1000"}) == 1000
    assert page_query.after({"after": f"7-{'0' * 32}"}) == PLACE


@pytest.mark.parametrize("limit", ["0", "101", "1000", "-1", "many", "", "\u0663"])
def test_a_wrong_limit_is_refused(limit: str) -> None:
    with pytest.raises(Refused, match="limit must be"):
        page_query.limit({"limit": limit}, 20, 100)


def test_a_wrong_place_is_refused() -> None:
    with pytest.raises(Refused, match="after must be"):
        page_query.after({"after": "7"})
