"""The streams of POST /process, compared field by field with those that agentscope-runtime has recorded.

Where the recorded stream is wrong, `CORRECTIONS` says what is right, and why.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from agentscope_runtime.engine import AgentApp

from tests.worker.agentapp import scenarios
from tests.worker.agentapp.clients import running

RECORDED: Final = Path(__file__).parent / "recorded"

Events = list[dict[str, Any]]


def recorded(name: str) -> Events:
    return [json.loads(line) for line in (RECORDED / f"{name}.jsonl").read_text("utf-8").splitlines()]


async def answer(scenario: scenarios.Scenario) -> Events:
    app = AgentApp(app_name="Friday", app_description="A helpful assistant")
    app.query(framework=scenario.framework)(scenario.handler)
    async with running(app) as client:
        response = await client.post("/process", json=scenario.body)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    return scenarios.normalised(response.text)


EXACT: Final = [
    "text",
    "several_texts",
    "replaced_text",
    "tools",
    "two_calls",
    "mcp_call",
    "thinking_and_call",
    "failing",
    "failing_early",
    "silent",
    "returned",
    "from_generator",
]


@pytest.mark.parametrize("name", EXACT)
async def test_a_stream_is_the_recorded_one(name: str) -> None:
    assert await answer(scenarios.SCENARIOS[name]) == recorded(name)


def messages(events: Events, *, keep: Callable[[dict[str, Any]], bool] = lambda _: True) -> Events:
    """The output of the last event: the type, the role and the contents of each message."""
    fields = ("type", "text", "data", "image_url", "video_url", "format")
    return [
        {
            "type": each["type"],
            "role": each["role"],
            "content": [
                {name: content[name] for name in fields if name in content} for content in each["content"]
            ],
        }
        for each in events[-1]["output"]
        if keep(each)
    ]


@pytest.mark.parametrize(
    "name", ["langgraph_text", "langgraph_tools", "langgraph_whole", "agno_run", "agno_input"]
)
async def test_other_frameworks_give_the_recorded_messages(name: str) -> None:
    """agentscope-runtime writes the events of each framework in a way of its own; here they are the same."""
    events = await answer(scenarios.SCENARIOS[name])
    assert messages(events) == messages(recorded(name))
    assert_well_formed(events)


async def test_text_after_thinking_is_one_content() -> None:
    """agentscope-runtime begins a new content with each piece of the text."""
    events = await answer(scenarios.SCENARIOS["thinking"])
    assert_well_formed(events)
    found, before = messages(events), messages(recorded("thinking"))
    assert found[0] == before[0]
    assert found[1]["content"] == [{"type": "text", "text": "It is"}]
    assert "".join(each["text"] for each in before[1]["content"]) == "It is"


async def test_media_are_messages_that_are_completed() -> None:
    """agentscope-runtime neither completes them nor has them in the output."""
    events = await answer(scenarios.SCENARIOS["media"])
    assert_well_formed(events)
    assert [each["content"] for each in messages(events)] == [
        [{"type": "image", "image_url": "https://example.org/a.png"}],
        [{"type": "audio", "data": "data:audio/wav;base64,UklGRg==", "format": "audio/wav"}],
        [{"type": "video", "video_url": "https://example.org/v.mp4"}],
        [{"type": "text", "text": "after"}],
    ]


async def test_content_as_a_string_is_a_text() -> None:
    """agentscope-runtime does not complete its content, and keeps only the last of several strings."""
    events = await answer(scenarios.SCENARIOS["whole_string"])
    assert_well_formed(events)
    assert messages(events) == messages(recorded("whole_string"))


@pytest.mark.parametrize("name", scenarios.SCENARIOS)
async def test_every_stream_is_well_formed(name: str) -> None:
    assert_well_formed(await answer(scenarios.SCENARIOS[name]))


def assert_well_formed(events: Events) -> None:
    """Numbers without gaps, one terminal event, and each message in progress before it is completed."""
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    responses = [each["status"] for each in events if each["object"] == "response"]
    assert responses[:2] == ["created", "in_progress"]
    assert len(responses) == 3
    assert events[-1]["object"] == "response"
    states: dict[str, str] = {}
    for each in events:
        if each["object"] == "content":
            assert states[each["msg_id"]] == "in_progress"
        elif each["object"] == "message":
            expected = {"in_progress": None, "completed": "in_progress"}[each["status"]]
            assert states.get(each["id"]) == expected
            states[each["id"]] = each["status"]
    if events[-1]["status"] == "completed":
        assert set(states.values()) <= {"completed"}
        assert [each["id"] for each in events[-1]["output"]] == [
            each["id"] for each in events if each["object"] == "message" and each["status"] == "completed"
        ]
