"""Messages: what a client may send, what it is sent, and how chunks are joined."""

import dataclasses
import enum
import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import orjson
import pydantic
import pytest
from agentscope.message import Msg, TextBlock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentscope_worker.dialects import native
from agentscope_worker.dialects.dialect import BadMessage
from agentscope_worker.runtime import lossy_json
from agentscope_worker.runtime.compat import majors
from tests.worker.agents import MAJOR, blocks_of, text_of

pytestmark = pytest.mark.agentscope

majors.seam().adapt("bypass")

SMALL = st.integers(-(2**63), 2**64 - 1)  # beyond, a number becomes a string

CALL: dict[str, Any] = (
    {"type": "tool_use", "id": "1", "name": "look", "input": {}}
    if MAJOR == 1
    else {"type": "tool_call", "id": "1", "name": "look", "input": "{}"}
)


def says(text: str, name: str = "a", **more: Any) -> Msg:
    return Msg(name=name, content=text, role="assistant", **more)


class TestRead:
    def test_text(self) -> None:
        msg = native.read_message({"name": "Ann", "content": "Hello", "role": "user"})
        assert (msg.name, text_of(msg), msg.role) == ("Ann", "Hello", "user")

    def test_defaults(self) -> None:
        msg = native.read_message({"content": "Hello"})
        assert (msg.name, msg.role) == ("user", "user")
        assert native.read_message({"content": "", "role": "system"}).name == "system"

    def test_a_callers_id_is_ignored(self) -> None:
        assert native.read_message({"content": "x", "id": "mine"}).id != "mine"

    def test_metadata(self) -> None:
        assert native.read_message({"content": "x", "metadata": {"a": 1}}).metadata == {"a": 1}
        assert native.read_message({"content": "x", "metadata": None}).metadata == {}

    def test_blocks(self) -> None:
        blocks = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        msg = native.read_message({"content": blocks})
        assert [(block["type"], block["text"]) for block in blocks_of(msg)] == [
            ("text", "a"),
            ("text", "b"),
        ]
        assert native.read_message({"content": []}).content == []

    def test_media(self) -> None:
        source = {"type": "base64", "media_type": "image/png", "data": "AA=="}
        kind = "image" if MAJOR == 1 else "data"
        msg = native.read_message({"content": [{"type": kind, "source": source}]})
        assert blocks_of(msg)[0]["source"] == source

    @pytest.mark.parametrize(
        "message, said",
        [
            ({}, "message.content is missing"),
            ({"content": None}, "message.content must be a string or a list.*not null"),
            ({"content": 3}, "message.content must be .*not a number"),
            ({"content": {"a": 1}}, "not an object"),
            ({"content": "x", "role": "tool"}, "message.role must be one of user, assistant, sys"),
            ({"content": "x", "role": None}, "message.role .*not null"),
            ({"content": "x", "role": ["user"]}, "message.role .*not a list"),
            ({"content": "x", "name": 3}, "message.name must be a string"),
            ({"content": "x", "metadata": []}, "message.metadata must be an object, not a list"),
            ({"content": ["x"]}, r"message.content\[0\] must be a content block"),
            ({"content": [{"type": "text", "text": "a"}, 3]}, r"message.content\[1\] must be"),
            ({"content": [{"foo": 1}]}, r"message.content\[0\].type must be one of text, .*null"),
            ({"content": [{"type": "nonsense"}]}, r"content\[0\].type must be one of text"),
            ({"content": [{"type": ["text"]}]}, r"content\[0\].type must be one of text"),
            ({"content": [{"type": "text"}]}, r"content\[0\].text is missing"),
            ({"content": [{"type": "text", "text": 3}]}, r"content\[0\]: text: .*string"),
            ({"content": [{"type": "tool_result"}]}, r"content\[0\]: id: Field required"),
        ],
    )
    def test_refused(self, message: dict[str, object], said: str) -> None:
        with pytest.raises(BadMessage, match=said):
            native.read_message(message)

    @pytest.mark.parametrize("kind", ["image_url", "input_image"])
    def test_a_block_of_another_api_is_answered_with_ours(self, kind: str) -> None:
        with pytest.raises(BadMessage) as refused:
            native.read_message({"content": [{"type": kind, "image_url": {"url": "https://a/b.png"}}]})
        _, _, example = str(refused.value).partition("not another string; send an image as ")
        block = json.loads(example)
        (source,) = (each["source"] for each in blocks_of(native.read_message({"content": [block]})))
        assert block["source"]["type"] == "url"
        assert str(source["url"]).startswith("https://")

    def test_the_message_and_the_metadata_of_a_body(self) -> None:
        body = b'{"message": {"content": "Hello", "name": "Ann"}, "metadata": {"a": [1]}, "session_id": "s"}'
        msg, metadata = native.read(body)
        assert (msg.name, text_of(msg), metadata) == ("Ann", "Hello", {"a": [1]})

    def test_a_body_without_metadata(self) -> None:
        msg, metadata = native.read(b'{"message": {"content": ""}}')
        assert (text_of(msg), msg.role, metadata) == ("", "user", {})

    def test_a_message_may_be_a_text(self) -> None:
        msg, _ = native.read(b'{"message": "Hello"}')
        assert (text_of(msg), msg.role, msg.name) == ("Hello", "user", "user")

    @pytest.mark.parametrize("role", ["user", "assistant", "system"])
    def test_each_role_is_taken(self, role: str) -> None:
        msg, _ = native.read(orjson.dumps({"message": {"content": "x", "role": role}}))
        assert msg.role == role

    @pytest.mark.parametrize(
        "fields, said",
        [
            ({}, "message is missing; it must be a string, or an object with at least content"),
            (
                {"message": None},
                "message is missing; it must be a string, or an object with at least content",
            ),
            ({"message": 7}, "message is a number; it must be a string, or an object with at least content"),
            ({"message": []}, "message is a list; it must be a string, or an object with at least content"),
            ({"message": {}}, "message.content is missing: a string or a list of content blocks"),
            ({"message": {"content": [{}, None]}}, r"message.content\[0\].type must be one of"),
            *(
                ({"message": {"content": "x", "role": role}}, "message.role must be one of user, assistant")
                for role in ("tool", "User", None, 1, ["user"], {})
            ),
            ({"message": {"content": "x", "name": None}}, "message.name must be a string, not null"),
        ],
    )
    def test_a_body_whose_message_is_wrong_is_refused(self, fields: dict[str, Any], said: str) -> None:
        with pytest.raises(BadMessage, match=said):
            native.read(orjson.dumps(fields))

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["content", "role", "name", "type", "text", "metadata", "source", "id"]),
                    inner | st.sampled_from(["text", "user", "image", "data", "tool_result"]),
                )
            ),
            max_leaves=20,
        )
    )
    def test_anything_is_read_or_refused(self, message: Any) -> None:
        if not isinstance(message, dict):
            message = {"content": message}
        try:
            msg = native.read_message(message)
        except BadMessage:
            return
        json.loads(native.write(msg))


class TestWrite:
    def test_the_whole_message_and_the_flag(self) -> None:
        msg = says("Hellö", metadata={"a": 1})
        written = json.loads(native.write(msg))
        whole = msg.to_dict() if MAJOR == 1 else msg.model_dump(mode="json")
        assert written == {**whole, "metadata": {"a": 1, "chunk": True}}

    def test_without_metadata(self) -> None:
        assert json.loads(native.write(says("x")))["metadata"] == {"chunk": True}

    def test_the_apps_own_flag_is_kept(self) -> None:
        assert json.loads(native.write(says("x", metadata={"chunk": False})))["metadata"] == {"chunk": False}

    def test_the_message_is_not_changed(self) -> None:
        msg = says("x", metadata={"a": 1})
        native.write(msg)
        assert msg.metadata == {"a": 1}

    def test_it_is_one_line(self) -> None:
        assert b"\n" not in native.write(says("a\nb\r\u2028"))

    def test_what_json_cannot_hold(self) -> None:
        class Odd:
            def __str__(self) -> str:
                return "odd"

        @dataclasses.dataclass
        class Point:
            x: int

        metadata = {"o": Odd(), "s": "\ud800x", "n": 2**80, 3: "key", "set": {1}, "p": Point(1)}
        written = json.loads(native.write(says("x", metadata=metadata)))["metadata"]
        assert written["o"] == "odd"
        assert written["s"] == "\ufffdx"
        assert written["n"] == str(2**80)
        assert written["3"] == "key"

    def test_lone_surrogates_in_text(self) -> None:
        written = native.write(says("a\ud800b \ud83d\ude00", name="\udc00"))
        assert "a\ufffdb 😀" in written.decode()
        orjson.loads(written)

    def test_an_object_in_a_tool_result(self) -> None:
        msg = says("x")
        if MAJOR == 1:
            msg.content = [{"type": "tool_result", "id": "1", "name": "t", "output": object()}]
        else:
            msg.structured_output = {"o": object()}
        assert "object object" in native.write(msg).decode()

    @pytest.mark.parametrize("yielded", [None, "text", {"a": 1}, 3])
    def test_no_message(self, yielded: Any) -> None:
        with pytest.raises(TypeError, match=rf"yielded a {type(yielded).__name__}; expected .*Msg"):
            native.write(yielded)

    @given(st.text(), st.dictionaries(st.text(), st.text() | SMALL | st.none()))
    def test_anything_can_be_read_again(self, text: str, metadata: dict[str, Any]) -> None:
        written = orjson.loads(native.write(says(text, metadata=metadata)))
        assert text_of(native.read_message(written)) == text
        assert written["metadata"] == {"chunk": True, **metadata}


class Colour(enum.StrEnum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Words(str):
    pass


class Count(int):
    pass


class Row(list[Any]):
    pass


@dataclasses.dataclass(frozen=True)
class Point:
    x: int


class Shouting(Msg):
    @pydantic.field_serializer("name")
    def shout(self, name: Any) -> str:
        return f"{name}!"


# What serialisers have their own ways with, beside what JSON knows and what it cannot hold.
CONTESTED = st.sampled_from(
    [Colour.RED, Number.ONE, Words("x"), Count(1), Row("x"), OrderedDict(x=1), Point(1), (1, 2), float("nan")]
) | st.datetimes(timezones=st.none() | st.timezones())
LEAF = (
    CONTESTED
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text(st.characters(categories=["Cs", "Cc", "L"]))
    | st.dates()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.sampled_from([b"", b"\x80", frozenset({1}), object()])
)
KEY = st.text() | st.integers() | st.sampled_from([None, True, Colour.RED, Words("x"), "\ud800"])
ODD = LEAF | st.recursive(LEAF, lambda inner: st.lists(inner) | st.dictionaries(KEY, inner), max_leaves=5)


@st.composite
def messages_of_any_kind(draw: st.DrawFn) -> Msg:
    """Messages with blocks of all kinds; up to two values are of a kind that should not be there."""
    text, call = {"type": "text", "text": draw(st.text())}, {"type": CALL["type"], "id": "1", "name": "look"}
    image = {"type": "base64", "media_type": "image/png", "data": "AA=="}
    usual: list[dict[str, Any]] = [text, {"type": "thinking", "thinking": draw(st.text())}]
    others: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "", "signature": draw(st.text())},
        {**call, "input": {} if MAJOR == 1 else "{}"},
        {"type": "tool_result", "id": "1", "name": "look", "output": draw(st.sampled_from(["seen", [text]]))},
        {"type": "image" if MAJOR == 1 else "data", "source": image},
        *([{"type": "hint", "hint": "now"}] if MAJOR == 2 else []),
    ]
    content = draw(
        st.lists(st.sampled_from(usual), max_size=2) | st.lists(st.sampled_from(others), max_size=2)
    )
    msg: Any = native.read_message({"content": content, "role": "assistant"})
    if draw(st.integers(0, 9)) == 9:
        msg = Shouting(name="Ann", content=msg.content, role="assistant")
    parts = [msg, *msg.content]
    msg.metadata = draw(st.sampled_from([None, {}, {"a": [1, 2.5, "x"]}, {"chunk": False}]))
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):  # nobody checks what is assigned
        part, value = draw(st.sampled_from(parts)), draw(ODD)
        fields = part if isinstance(part, dict) else vars(part)
        field = draw(st.sampled_from(["metadata", "new", *(name for name in fields if name != "type")]))
        if field != "metadata":
            fields[field] = value
        elif part is msg:
            fields[field] = {draw(KEY | st.just("chunk")): value}
    return msg


def the_other_way(msg: Any) -> bytes:
    metadata = {**(msg.metadata or {})}
    metadata.setdefault("chunk", True)
    return b'%b,"metadata":%b}' % (majors.seam().encode(msg)[:-1], lossy_json.dumps(metadata))


def what_is_read(write: Callable[[Any], bytes], msg: Msg) -> Any:
    """Objects as lists of pairs, since their order is seen; or the error."""
    try:
        return json.loads(write(msg), object_pairs_hook=list)
    except TypeError as error:
        return str(error)


class TestTheFastWay:
    @given(messages_of_any_kind())
    @settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
    def test_it_writes_what_the_other_writes(self, msg: Msg) -> None:
        assert what_is_read(native.write, msg) == what_is_read(the_other_way, msg)

    @pytest.mark.parametrize("block", [{"type": "text", "text": "x"}, "x", 1, None])
    def test_whatever_an_app_puts_among_the_blocks(self, block: Any) -> None:
        msg = native.read_message({"content": [{"type": "text", "text": "a"}], "role": "assistant"})
        parts: Any = msg.content
        parts.append(block)
        assert what_is_read(native.write, msg) == what_is_read(the_other_way, msg)

    @pytest.mark.parametrize("metadata", [None, {"a": [1, None, 2.5]}, {"chunk": False}])
    def test_what_is_streamed_takes_it(self, metadata: Any) -> None:
        thought: Any = {"type": "thinking", "thinking": "hm"}
        msg = native.read_message({"content": [{"type": "text", "text": "x"}, thought], "role": "assistant"})
        with patch.object(majors.seam(), "encode", side_effect=AssertionError):
            native.write(msg)


class TestJoin:
    def joined(self, *msgs: Msg) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = orjson.loads(native.join(msgs))
        return result

    def texts(self, *msgs: Msg) -> list[str]:
        return [
            each["content"]
            if isinstance(each["content"], str)
            else "".join(block.get("text", "|") for block in each["content"])
            for each in self.joined(*msgs)
        ]

    def test_nothing(self) -> None:
        assert native.join([]) == b"[]"

    def test_chunks_become_one_message(self) -> None:
        (message,) = self.joined(says("Hello"), says("! "), says("Bye"))
        assert self.texts(says("Hello"), says("! "), says("Bye")) == ["Hello! Bye"]
        assert "chunk" not in message["metadata"]
        assert message["name"] == "a"

    def test_text_becomes_one_block(self) -> None:
        (message,) = self.joined(
            Msg(name="a", content=[TextBlock(type="text", text="x")], role="assistant"),
            Msg(name="a", content=[TextBlock(type="text", text="y")], role="assistant"),
        )
        assert [block["text"] for block in message["content"]] == ["xy"]

    def test_other_names_and_roles_end_it(self) -> None:
        msgs = [says("1"), says("2", name="b"), says("3", name="b"), says("4")]
        assert self.texts(*msgs) == ["1", "23", "4"]
        assert self.texts(says("1"), Msg(name="a", content="2", role="user")) == ["1", "2"]

    def test_other_blocks_stay_in_order(self) -> None:
        call = native.read_message({"content": [CALL], "role": "assistant", "name": "a"})
        (message,) = self.joined(says("one "), says("two"), call, says("three"))
        kinds = [(block["type"], block.get("text")) for block in message["content"]]
        assert kinds == [("text", "one two"), (CALL["type"], None), ("text", "three")]

    def test_a_whole_message_stands_alone(self) -> None:
        whole = says("2", metadata={"chunk": False})
        assert self.texts(says("1"), whole, says("3"), says("4")) == ["1", "2", "34"]
        assert self.joined(whole)[0]["metadata"] == {"chunk": False}

    def test_metadata_is_merged_and_the_apps_own_flag_kept(self) -> None:
        (message,) = self.joined(
            says("1", metadata={"a": 1, "b": 1}), says("2", metadata={"b": 2, "chunk": True})
        )
        assert message["metadata"] == {"a": 1, "b": 2, "chunk": True}

    def test_the_first_id_is_kept_and_nothing_changed(self) -> None:
        first, second = says("1"), says("2")
        (message,) = self.joined(first, second)
        assert message["id"] == first.id
        assert (text_of(first), text_of(second)) == ("1", "2")
