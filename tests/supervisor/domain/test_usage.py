"""The usage that a worker reports: the documented form comes back, anything else is none."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope_supervisor.domain.usage import MAX_COUNT, MAX_MODELS, ModelUsage, Usage, read

COUNT = st.integers(0, MAX_COUNT)
MODELS = st.builds(ModelUsage, st.text(st.characters(exclude_categories=["Cs"]), max_size=9), *[COUNT] * 4)
GOOD = {"model": "m", "calls": 1, "input_tokens": 2, "output_tokens": 3, "ms": 4}


@given(st.lists(MODELS, min_size=1, max_size=4))
def test_a_usage_comes_back(models: list[ModelUsage]) -> None:
    used = Usage(tuple(models))
    assert read(orjson.dumps({"models": used.fields["models"]})) == used


def test_sums() -> None:
    used = read(orjson.dumps({"models": [GOOD, GOOD | {"model": "n", "calls": 2}]}))
    assert used is not None
    assert (used.input_tokens, used.output_tokens, used.fields["ms"]) == (4, 6, 8)
    assert used.fields["models"][1] == GOOD | {"model": "n", "calls": 2}
    assert orjson.loads(used.metadata) == {"usage": used.fields}


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"models": {}},
        {"models": []},
        {"models": [None]},
        {"models": [GOOD] * (MAX_MODELS + 1)},
        {"models": [GOOD, GOOD | {"ms": -1}]},
        {"models": [GOOD | {"calls": True}]},
        {"models": [GOOD | {"calls": 1.5}]},
        {"models": [GOOD | {"calls": MAX_COUNT + 1}]},
        {"models": [GOOD | {"model": 7}]},
        {"models": [GOOD | {"model": "m" * 129}]},
    ],
)
def test_anything_else_is_none(value: object) -> None:
    assert read(orjson.dumps(value)) is None


@given(st.binary(max_size=40))
def test_bytes_of_any_kind_are_none(payload: bytes) -> None:
    assert read(payload) is None
