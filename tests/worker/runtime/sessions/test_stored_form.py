"""What a state may contain: a load returns equal values, or the save names the place that is not JSON."""

import dataclasses
import enum
import itertools
import json
import math
import sys
from collections import OrderedDict
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, computed_field

from agentscope_worker.runtime.sessions import state
from agentscope_worker.runtime.sessions.json_store import JsonSessions
from agentscope_worker.runtime.sessions.stored_form import NOTHING, Stamp, decode, encode, stamp_of, stamped
from tests.worker.values import Value


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(enum.StrEnum):
    YES = "yes"


@dataclasses.dataclass
class Point:
    x: int = 1


READS = itertools.count()
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)

CHANGED = [
    (math.nan, "nan is not JSON"),
    (math.inf, "inf is not JSON"),
    (-math.inf, "-inf is not JSON"),
    (NOON, "a value of type datetime is not JSON"),
    (date(2026, 1, 2), "a value of type date is not JSON"),
    (UUID(int=1), "a value of type UUID is not JSON"),
    (Color.RED, "a value of type Color is not JSON"),
    (Point(), "a value of type Point is not JSON"),
    (Decimal("0.1"), "a value of type Decimal is not JSON"),
    ((1, 2), "a value of type tuple is not JSON"),
    ({1}, "a value of type set is not JSON"),
    (b"x", "a value of type bytes is not JSON"),
    ({1: "x"}, "a key of type int is not JSON; keys must be strings"),
]
KEPT = [
    *(None, True, 0, -1, 2**80, -(2**80), 0.1, -0.0, 1e308, sys.float_info.min, "", "ü😀\x00", "\ud800"),
    *({}, [], {"": {"a b": [1, [2, {"c": None}]]}}, OrderedDict(a=1), Level.HIGH, Word.YES),
]


def nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


def save_and_load(value: Any) -> Any:
    return decode(stamped(encode("s", "u", 2, {"m": value}), Stamp(1, "0" * 16)))["state"]["m"]


@pytest.mark.parametrize("value", KEPT, ids=ascii)
def test_what_json_keeps_is_loaded_equal(value: Any) -> None:
    assert save_and_load({"a": [value]}) == {"a": [value]}
    assert save_and_load({"a": [value, "\ud800"]}) == {"a": [value, "\ud800"]}


@pytest.mark.parametrize(("value", "reason"), CHANGED, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("beside", ["x", "\ud800"], ids=ascii)
def test_what_json_changes_is_rejected_with_its_place(value: Any, reason: str, beside: str) -> None:
    with pytest.raises(ValueError, match="is not JSON") as error:
        save_and_load({"list": [0, {"score": value}], "beside": beside})
    assert str(error.value) == f"state.m.list[1].score: {reason}"
    with pytest.raises(ValueError, match="is not JSON") as error:
        save_and_load({"two words": {"é'\n": value}})
    assert str(error.value) == f"state.m['two words'][\"\\xe9'\\n\"]: {reason}"


def test_a_state_that_contains_itself_or_is_nested_too_deeply_is_rejected() -> None:
    loop: list[Any] = []
    loop.append({"again": loop})
    with pytest.raises(ValueError, match=r"^state\.m\[0\]\.again: an object that contains itself"):
        save_and_load(loop)
    assert save_and_load(nested(400)) == nested(400)
    for inside in ([], [math.nan]):
        deep = nested(100_000)
        deep.append(inside)
        with pytest.raises(ValueError, match="nested too deeply"):
            save_and_load(deep)


def test_a_stored_form_of_an_older_release_is_loaded(tmp_path: Path) -> None:
    form = {
        "format": "agentscope-supervisor session",
        "version": 1,
        "agentscope": 2,
        "state": {"m": math.nan},
    }
    stored = json.dumps({"save": 7, **form}).replace(" ", "", 1).encode()
    assert stamp_of(stored) == Stamp(7)
    assert math.isnan(decode(stored)["state"]["m"])
    assert stamp_of(json.dumps(form).encode()) == NOTHING


def test_stamps_grow_whatever_the_clock_does() -> None:
    assert [Stamp(5, "a").next("b", clock) for clock in (3, 5, 9)] == [
        Stamp(6, "b"),
        Stamp(6, "b"),
        Stamp(9, "b"),
    ]


class Profile(BaseModel):
    """A model whose fields restore some values that JSON changes, and not those in `more`."""

    when: datetime = NOON
    color: Color = Color.RED
    pair: tuple[int, int] = (1, 2)
    tags: set[str] = {"a"}
    score: float = 0.5
    more: dict[str, Any] = {}
    permission_context: Any = NOON
    secret: str = Field("", exclude=True)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def read(self) -> int:
        """Another value each time."""
        return next(READS)


def test_fields_of_models_restore_their_values() -> None:
    profile, restored = Profile(more={"a": [1]}, pair=(3, 4)), Profile(when=datetime(2000, 1, 1))
    state.restore(
        "p", restored, decode(encode("s", "u", 2, {"p": state.extract("p", profile)}))["state"]["p"]
    )
    assert restored == profile


# pydantic itself dumps a dataclass as a dict, in every mode
@pytest.mark.parametrize(
    ("value", "reason"),
    [each for each in CHANGED if not dataclasses.is_dataclass(each[0])],
    ids=lambda each: type(each).__name__,
)
def test_other_values_of_models_are_rejected_with_their_place(value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=r"^state\.p\.more\.a\[0\]: ") as error:
        encode("s", "u", 2, {"p": state.extract("p", Profile(more={"a": [value]}))})
    assert str(error.value) == f"state.p.more.a[0]: {reason}"


def test_a_model_that_could_not_be_loaded_is_rejected() -> None:
    class Strict(BaseModel):
        when: datetime = NOON
        password: str = Field(exclude=True)

    with pytest.raises(ValueError, match=r"^state\.p\.password: a load would fail: Field required$"):
        state.extract("p", Strict(password="x"))
    with pytest.raises(ValueError, match=r"^state\.p\.score: nan is not JSON$"):
        encode("s", "u", 2, {"p": state.extract("p", Profile(score=math.nan))})
    with pytest.raises(ValueError, match=r"^state\.p: Unable to serialize unknown type"):
        state.extract("p", Profile(more={"a": object()}))


async def test_a_rejected_save_keeps_the_stored_state(tmp_path: Path) -> None:
    store = JsonSessions(tmp_path, 2)
    await store.open()
    await store.save_session_state("s", memory=Value([1]))
    with pytest.raises(ValueError, match=r"^state\.memory\.value\[0\]\.score: nan is not JSON$"):
        await store.save_session_state("s", memory=Value([{"score": math.nan}]))
    assert await store.load_session_state("s") == {"memory": {"value": [1]}}
    await store.close()
