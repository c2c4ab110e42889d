"""The outline of a large body: it takes what orjson takes, and refuses what is too much."""

import hashlib
import json
from typing import Any, Final

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentscope_supervisor.domain.errors import ErrorCode, Refused
from agentscope_supervisor.domain.json_outline import (
    MAX_DEPTH,
    MAX_NUMBER,
    MAX_TEXT,
    MAX_VALUES,
    STEP,
    Outline,
    Path,
)

PATHS: Final[frozenset[Path]] = frozenset(
    {("a",), ("b",), ("c",), ("c", "a"), ("c", "é"), ("c", "a", "a"), ("c", "a", "b")}
)
SMALLEST: Final = 13  # bytes of a step; one that ends in an escape reads it in the next


def outline(body: bytes, size: int = STEP, kinds: frozenset[Path] = frozenset()) -> Outline:
    """The complete outline of a body."""
    made = Outline(body, PATHS, kinds, size=size)
    while not made.step():
        pass
    return made


def wanted(value: Any) -> Any:
    """What the outline of this value must have."""
    fields: dict[str, Any] = {}
    for name in ("a", "b", "c"):
        if name in value:
            fields[name] = hollow(value[name])
    if isinstance(value.get("c"), dict):
        fields["c"] = {name: hollow(inner) for name, inner in value["c"].items() if name in ("a", "é")}
        deep = value["c"].get("a")
        if isinstance(deep, dict):
            fields["c"]["a"] = {name: hollow(inner) for name, inner in deep.items() if name in ("a", "b")}
    return fields


def hollow(value: Any) -> Any:
    return type(value)() if isinstance(value, dict | list) else value


def refusal(body: bytes, size: int = STEP) -> str:
    with pytest.raises(Refused) as refused:
        outline(body, size)
    assert refused.value.failure.code is ErrorCode.INVALID_REQUEST
    return refused.value.failure.message


def assert_same(body: bytes, size: int) -> None:
    """The outline is of what orjson reads, and is refused if orjson refuses."""
    try:
        value = orjson.loads(body)
    except ValueError:
        assert refusal(body, size).startswith("the body ")
        return
    if isinstance(value, dict):
        assert outline(body, size).fields == wanted(value)
    else:
        assert refusal(body, size).startswith("the body must be a JSON object")


NAMES = st.sampled_from(["a", "b", "c", "é", "", "other", "😀" * 9]) | st.text(max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)
BODIES = st.builds(
    lambda value, ascii, indent: json.dumps(value, ensure_ascii=ascii, indent=indent).encode(
        errors="surrogatepass"
    ),
    st.dictionaries(NAMES, VALUES, max_size=5) | VALUES,
    st.booleans(),
    st.none() | st.integers(0, 20),
)
SIZES = st.integers(SMALLEST, 40)


@given(BODIES, SIZES)
@settings(deadline=None, derandomize=True)
def test_the_outline_of_any_body_has_what_is_wanted(body: bytes, size: int) -> None:
    assert_same(body, size)


@given(BODIES, SIZES, st.data())
@settings(deadline=None, derandomize=True, max_examples=400)
def test_a_body_with_one_change_is_refused_when_orjson_refuses_it(
    body: bytes, size: int, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(body)))
    length = data.draw(st.integers(0, 3))
    piece = data.draw(st.sampled_from([b"", *(b"%c" % each for each in b'{}[],:"\\ue0-.19\n\x00\xff\xc3')]))
    assert_same(body[:at] + piece + body[at + length :], size)


@pytest.mark.parametrize(
    "text",
    [
        *(b"1e400 -1e400 1E+5 1e-400 -0 01 1. .5 +1 -  1e 0x1 NaN Infinity tru nulll".split(b" ")),
        *(b"9" * count for count in (308, 309, 310)),
        *(
            b'"%b"' % each
            for each in (rb"\ud800", rb"\udc00", rb"\ud83d\ude00", rb"\uD83D\uDE00", rb"\ud83d\u0041")
        ),
        *(
            b'"%b"' % each
            for each in (
                rb"\x",
                rb"\u12",
                rb"\u{001f",
                rb"\u00e9",
                rb"\/\b\f\n\r\t\\",
                b"\x01",
                b"\x7f",
                b"\t",
                b"\n",
            )
        ),
        *(
            b'"\xff"',
            b'"\xed\xa0\x80"',
            b'"\xc3"',
            b'"\xf0\x9f\x98\x80"',
            b'"\x80"',
            b'"' + b"\x80" * 40 + b'"',
        ),
        *(
            b"[1,]",
            b"[,]",
            b"[1 2]",
            b'{"x":1,}',
            b"{1:2}",
            b'{"x"}',
            b'{"x" 1}',
            b"[}",
            b"{]",
            b"[:]",
            b"]",
            b"}",
            b'"',
        ),
        b"[" * MAX_DEPTH,
        b" " * 50 + b"1" + b" \t\r\n" * 20,
    ],
)
def test_a_value_is_taken_when_orjson_takes_it(text: bytes) -> None:
    for body in (
        text,
        b'{"a":%b}' % text,
        b'{"a":%b' % text,
        b'{"c":{"a":%b},"x":[%b]}' % (text, text),
        text + b"{}",
    ):
        for size in (SMALLEST, STEP):
            assert_same(body, size)


def test_a_byte_order_mark_is_refused() -> None:
    assert_same(b"\xef\xbb\xbf{}", SMALLEST)


def test_the_last_of_several_members_of_one_name_counts() -> None:
    body = rb'{"a":1,"c":{"a":1,"\u0061":2},"\u0061":3,"c":{"\u00e9":4}}'
    assert outline(body).fields == orjson.loads(body) == {"a": 3, "c": {"é": 4}}
    assert outline(b'{"c":{"a":1},"c":2,"b":{"a":1}}').fields == {"c": 2, "b": {}}


def test_members_of_a_list_in_a_member_are_no_members_of_it() -> None:
    assert outline(b'{"c":{"a":{"x":1},"b":{"a":1}},"b":[1]}').fields == {"c": {"a": {}}, "b": []}
    assert outline(b'{"c":[{"a":1}],"x":{"c":{"a":2}}}').fields == {"c": []}
    assert outline(b'{"c":{"a":{"b":{"b":1},"x":{"a":2}},"x":{"a":3}}}').fields == {"c": {"a": {"b": {}}}}
    assert outline(b'{"c":{"a":[{"a":1}]}}').fields == {"c": {"a": []}}
    assert outline(b'{"c":{"x":{"a":1},"a":[{"a":2}]}}').fields == {"c": {"a": []}}


@pytest.mark.parametrize("depth, is_taken", [(MAX_DEPTH, True), (MAX_DEPTH + 1, False)])
def test_the_number_of_levels_is_bounded_as_in_orjson(depth: int, is_taken: bool) -> None:
    body = b'{"a":' * (depth - 1) + b"[]" + b"}" * (depth - 1)
    assert_same(body, STEP)
    if not is_taken:
        assert refusal(body) == "the body is nested more than 1024 levels deep"


@pytest.mark.parametrize("value", [b"{}", b"[]", b"0", b'""'])
def test_the_number_of_values_is_bounded(value: bytes) -> None:
    most = MAX_VALUES - 2  # beside the object and the list
    assert outline(b'{"a":[%b]}' % b",".join([value] * most)).fields == {"a": []}
    assert refusal(b'{"a":[%b' % b",".join([value] * (most + 1))) == "the body has more than 100000 values"


def test_the_length_of_a_number_is_bounded() -> None:
    assert outline(b'{"a":0.%b}' % (b"3" * (MAX_NUMBER - 2))).fields["a"] == pytest.approx(1 / 3)
    for digits in (b"3" * (MAX_NUMBER + 1), b" " + b"3" * 3 * STEP):
        message = refusal(b'{"a":%b}' % digits)
        assert message == "the body has a number of more than 1024 characters"


@pytest.mark.parametrize(
    "value", [b"12", b"-1", b"1.5", b"1e5", b"1e+5", b"true", b'"x"', b"{}", rb'"\u00e9"']
)
def test_a_value_may_begin_in_one_step_and_end_in_the_next(value: bytes) -> None:
    for space in range(MAX_NUMBER + SMALLEST - 16, MAX_NUMBER + SMALLEST + 1):
        assert_same(b'{"a":%b%b}' % (b" " * space, value), SMALLEST)


def test_a_long_text_is_refused_where_it_is_needed_and_only_there() -> None:
    long = b'"%b"' % (b"x" * MAX_TEXT)
    assert refusal(b'{"a":%b}' % long) == "a has more than 65536 bytes"
    assert refusal(b'{"c":{"a":%b}}' % long) == "c.a has more than 65536 bytes"
    made = outline(b'{"a":%b,"x":%b,%b:1}' % (long, long, long), kinds=frozenset({("a",)}))
    assert isinstance(made.fields.pop("a"), str)
    assert made.fields == {}


def test_the_digest_is_of_the_bytes() -> None:
    for body in (b'{"a":1}', '{"a":"é😀"}'.encode() * 1):
        made = Outline(body, PATHS, digests=True, size=SMALLEST)
        while not made.step():
            pass
        assert made.digest == hashlib.sha256(body).digest()


def test_a_step_reads_no_more_than_its_size() -> None:
    texts = (b"x" * 3 * STEP, b"\\n" * 2 * STEP)
    for body in [b'{"x":"%b"}' % text for text in texts] + [
        b'{"x":[%b0]}' % (b"0," * STEP),
        b" " * 3 * STEP + b"{}",
    ]:
        steps = 1
        made = Outline(body, PATHS)
        while not made.step():
            steps += 1
        assert steps >= len(body) // STEP
