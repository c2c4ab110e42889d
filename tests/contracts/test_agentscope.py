"""What the worker and the scripted App rely on in AgentScope 2.x.

The tests run in this process against the installed AgentScope, and again against the stand-in
(`test_standin.py`).
"""

import inspect
import json
from datetime import datetime
from typing import Any

import agentscope
import pytest
from agentscope.agent import Agent
from agentscope.event import EventType
from agentscope.message import Msg, TextBlock, ThinkingBlock
from agentscope.permission import PermissionMode
from agentscope.tool import Toolkit
from packaging.version import Version
from pydantic import BaseModel, ValidationError

from agentscope_protocol.config.settings import Settings
from agentscope_worker.dialects import native
from agentscope_worker.dialects.dialect import BadMessage
from agentscope_worker.runtime.compat.majors import check_installation, seam

pytestmark = pytest.mark.agentscope2

FIELDS_OF_MSG = {
    "name", "content", "role", "id", "metadata", "created_at", "usage",
    "finished_at", "finished_reason", "structured_output", "error",
}  # fmt: skip
FIELDS_OF_BLOCKS = {
    "text": {"type", "text", "id", "created_at", "finished_at"},
    "thinking": {"type", "thinking", "id", "created_at", "finished_at"},
    "hint": {"type", "hint", "id", "source", "created_at", "finished_at"},
    "tool_call": {"type", "id", "name", "input", "state", "suggested_rules", "created_at", "finished_at"},
    "tool_result": {"type", "id", "name", "output", "state", "metadata", "created_at", "finished_at"},
    "data": {"type", "id", "source", "name", "created_at", "finished_at"},
}
IMAGE = {"type": "base64", "data": "AA==", "media_type": "image/png"}
LINK = {"type": "url", "url": "http://localhost/a.png", "media_type": "image/png"}
RULE = {"tool_name": "Bash", "rule_content": None, "behavior": "allow", "source": "user"}
BLOCKS: list[dict[str, Any]] = [
    {"type": "text", "text": "hello"},
    {"type": "thinking", "thinking": "hm", "signature": "kept"},
    {"type": "hint", "hint": "now"},
    {"type": "hint", "hint": [{"type": "text", "text": "now"}], "source": "clock"},
    {"type": "tool_call", "id": "1", "name": "look", "input": "{}", "suggested_rules": [RULE]},
    {"type": "tool_result", "id": "1", "name": "look", "output": "found", "state": "success"},
    {"type": "tool_result", "id": "1", "name": "look", "output": [{"type": "data", "source": IMAGE}]},
    {"type": "data", "source": IMAGE, "name": "a"},
    {"type": "data", "source": LINK},
]
NOT_BLOCKS: list[Any] = [
    "text",
    {"type": "text"},
    {"type": "text", "text": 1},
    {"type": "nothing", "text": "x"},
    {"type": "data", "source": {"type": "base64", "data": "AA=="}},
    {"type": "data", "source": {**LINK, "url": "no url"}},
    {"type": "tool_call", "id": "1", "name": "look", "input": {}},
    {"type": "tool_call", "id": "1", "name": "look", "input": "{}", "state": "lost"},
]


@pytest.fixture(autouse=True)
def _adapted() -> None:
    seam().adapt("bypass")


def written(model: BaseModel) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(model.model_dump_json())
    return value


def test_the_version_is_the_installed_one() -> None:
    assert Version(agentscope.__version__).major == check_installation() == seam().MAJOR == 2


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_a_message_of_text(role: str) -> None:
    msg = Msg("somebody", "hello", role)
    assert written(msg).keys() >= FIELDS_OF_MSG
    assert (msg.name, msg.role, msg.get_text_content(), msg.metadata) == ("somebody", role, "hello", {})
    assert [type(block) for block in msg.content] == [TextBlock]
    assert [msg.usage, msg.finished_at, msg.finished_reason, msg.structured_output, msg.error] == [None] * 5


def test_texts_are_joined_and_no_text_is_none() -> None:
    blocks = [TextBlock(text="x"), ThinkingBlock(thinking="y"), TextBlock(text="z")]
    msg = Msg(name="a", content=blocks, role="assistant")
    assert (msg.get_text_content(), msg.get_text_content("")) == ("x\nz", "xz")
    assert Msg(name="a", content=[], role="assistant").get_text_content() is None


def test_ids_differ_and_times_are_local() -> None:
    first, second = Msg("a", "x", "user"), Msg("a", "x", "user")
    assert len({first.id, second.id, first.content[0].id, second.content[0].id}) == 4
    for made in (first, first.content[0]):
        assert abs((datetime.now() - datetime.fromisoformat(made.created_at)).total_seconds()) < 60


def test_the_factories_can_be_replaced() -> None:
    import agentscope._utils._common as home

    ids, times = home._id_factory, home._timestamp_factory
    try:
        agentscope.set_id_factory(lambda: "an id")
        agentscope.set_timestamp_factory(lambda: "a time")
        assert (TextBlock(text="x").id, TextBlock(text="x").created_at) == ("an id", "a time")
        assert (Msg("a", "x", "user").id, Msg("a", "x", "user").created_at) == ("an id", "a time")
    finally:
        agentscope.set_id_factory(ids)
        agentscope.set_timestamp_factory(times)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_keeps_its_fields(block: dict[str, Any]) -> None:
    made = seam().block_classes()[block["type"]].model_validate(block)
    back = written(made)
    assert back.keys() >= FIELDS_OF_BLOCKS[block["type"]]
    for key in block.keys() - {"hint", "output"}:
        assert back[key] == block[key]
    whole = Msg.model_validate({"name": "a", "role": "assistant", "content": [block]})
    assert type(whole.content[0]) is type(made)
    assert Msg.model_validate(written(whole)) == whole


@pytest.mark.parametrize("block", NOT_BLOCKS)
def test_an_invalid_block_is_refused(block: Any) -> None:
    with pytest.raises(ValidationError):
        Msg.model_validate({"name": "a", "role": "assistant", "content": [block]})


@pytest.mark.parametrize(
    "role, kind, accepted",
    [
        ("user", "data", True),
        ("user", "thinking", False),
        ("system", "data", False),
        ("system", "text", True),
    ],
)
def test_the_blocks_that_a_role_may_have(role: str, kind: str, accepted: bool) -> None:
    block = next(each for each in BLOCKS if each["type"] == kind)
    if accepted:
        Msg.model_validate({"name": "a", "role": role, "content": [block]})
    else:
        with pytest.raises(ValidationError, match="message can only contain"):
            Msg.model_validate({"name": "a", "role": role, "content": [block]})


@pytest.mark.parametrize("role", ["nobody", None])
def test_other_roles_are_refused(role: Any) -> None:
    with pytest.raises(ValidationError):
        Msg.model_validate({"name": "a", "role": role, "content": []})


def test_a_plain_message_is_written_by_its_fields() -> None:
    msg = Msg("a", "x", "assistant")
    fields = seam().plain_fields(msg)
    assert fields is not None
    assert json.loads(json.dumps(fields, default=vars)) == json.loads(seam().encode(msg))
    assert "metadata" not in fields
    assert fields.keys() >= FIELDS_OF_MSG - {"metadata"}
    odd = Msg("a", [ThinkingBlock(thinking="y", signature="s")], "assistant")
    assert seam().plain_fields(odd) is None
    assert json.loads(seam().encode(odd))["content"][0]["signature"] == "s"


def test_a_lone_surrogate_is_written() -> None:
    assert json.loads(seam().encode(Msg("a", "\ud800", "assistant")))["content"][0]["text"] == "\ufffd"


@pytest.mark.parametrize("block", BLOCKS)
def test_the_worker_reads_and_writes_a_block(block: dict[str, Any]) -> None:
    role = "user" if block["type"] in ("text", "data") else "assistant"
    msg = native.read_message({"role": role, "content": [block]})
    fields = json.loads(native.write(msg))
    assert fields["content"] == written(msg)["content"]
    assert fields["metadata"] == {"chunk": True}


@pytest.mark.parametrize(
    "message, told",
    [
        ({"content": [{"type": "text", "text": 1}]}, "[0]: text: Input should be a valid string"),
        ({"content": [{"type": "thinking"}]}, "content[0].thinking is missing"),
        (
            {"content": [{"type": "thinking", "thinking": "x"}]},
            "User message can only contain text blocks or",
        ),
        (
            {"content": [{"type": "nothing"}]},
            "thinking, hint, tool_call, tool_result, data, not another",
        ),
    ],
)
def test_the_worker_reports_what_is_wrong_with_a_message(message: dict[str, Any], told: str) -> None:
    with pytest.raises(BadMessage) as refused:
        native.read_message(message)
    assert told in str(refused.value)


def test_the_names_that_the_worker_imports_exist() -> None:
    assert {mode.value for mode in PermissionMode} >= {"default", "bypass"}
    for name in (
        "REPLY_START",
        "TEXT_BLOCK_DELTA",
        "THINKING_BLOCK_DELTA",
        "TOOL_CALL_END",
        "DATA_BLOCK_END",
    ):
        assert EventType[name].value == name
    assert isinstance(seam().new_toolkit(), Toolkit)
    assert inspect.iscoroutinefunction(Agent.__call__)
    assert Settings.model_validate({}).agentscope.permission_mode in {mode.value for mode in PermissionMode}
