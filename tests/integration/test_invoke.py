"""A turn over HTTP that goes well, and one that the App itself makes go wrong (CONTRACT section 4)."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness.client import Stream, call, invoke, new_session, streamed, texts, turn_body
from tests.harness.events import text_of
from tests.harness.instance import Instance

pytestmark = pytest.mark.agentscope

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


# -- a stream ---------------------------------------------------------------------------------


async def test_first_event_comes_before_the_app_has_finished(shared: Instance, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = [{"say": "one"}, {"wait_for": str(gate)}, {"say": "two"}]
    async with Stream(shared.port, new_session(), script) as stream:
        await stream.until(events=1)
        assert stream.events[0].text == "one"
        gate.touch()  # only now may the App go on
        assert [event.text for event in await stream.whole()] == ["one", "two"]


@pytest.mark.timed
async def test_each_event_leaves_as_soon_as_it_is_yielded(shared: Instance) -> None:
    async with Stream(shared.port, new_session(), [{"say": "x", "times": 6, "every": 0.2}]) as stream:
        events = await stream.whole()
    assert len(events) == 6
    spread = events[-1].at - events[0].at
    assert spread > 0.6, f"what the App says in a second came within {spread:.2f} s"


async def test_stream_has_the_promised_headers_and_bytes(shared: Instance) -> None:
    async with Stream(shared.port, new_session(), "Hello", headers={"X-Request-Id": "mine-1"}) as stream:
        await stream.whole()
        headers = stream.head.headers
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["cache-control"] == "no-cache, no-transform"
        assert headers["x-accel-buffering"] == "no"
        assert headers["x-request-id"] == "mine-1"
        assert stream.worker in {worker.label for worker in shared.ready_workers()}
        run = stream.run_id
        first, done = stream.raw.decode().removesuffix("\n\n").split("\n\n")
    assert first.startswith(f"id: {run}-0\ndata: ")
    data = json.loads(first.split("data: ", 1)[1])
    assert (data["name"], data["role"], text_of(data)) == ("assistant", "assistant", "Hello")
    assert data["metadata"] == {"chunk": True}
    end = '{"name":"assistant","content":"","role":"assistant","metadata":{"done":true}}'
    assert done == f"id: {run}-1\ndata: {end}"


async def test_run_ids_differ(shared: Instance) -> None:
    runs = set()
    for _ in range(3):
        async with Stream(shared.port, new_session(), "x") as stream:
            await stream.whole()
            runs.add(stream.run_id)
    assert len(runs) == 3


async def test_metadata_that_the_app_sets_stays(shared: Instance) -> None:
    script = [{"say": "a", "metadata": {"chunk": False, "own": [1]}}, {"say": "b", "metadata": {"own": 2}}]
    first, second = await streamed(shared.port, new_session(), script)
    assert first.data["metadata"] == {"chunk": False, "own": [1]}
    assert second.data["metadata"] == {"chunk": True, "own": 2}


@pytest.mark.parametrize(
    "text",
    [
        "line\nbreak\r\nand\rreturn",
        "\u2028\u2029\x85\x0b",
        "\0\x1b[31m",
        "日本語 🦊 é",
        'data: {"x"}\n\nid: 1',
    ],
)
async def test_any_text_comes_through_in_one_data_line(shared: Instance, text: str) -> None:
    assert await texts(shared.port, new_session(), [{"say": text}]) == [text]


async def test_a_burst_of_events_comes_whole_and_in_order(shared: Instance) -> None:
    script = [{"say": str(number)} for number in range(3000)]
    assert await texts(shared.port, new_session(), script) == [str(number) for number in range(3000)]


async def test_big_messages_come_whole(shared: Instance) -> None:
    sizes = [len(text) for text in await texts(shared.port, new_session(), [{"big": 1_000_000, "times": 5}])]
    assert sizes == [1_000_000] * 5


async def test_a_message_over_what_a_link_carries_is_an_error_of_that_turn_alone(shared: Instance) -> None:
    session = new_session()
    async with Stream(shared.port, session, [{"say": "before"}, {"big": 80_000_000}]) as stream:
        assert [event.text for event in await stream.whole(error="APP_ERROR")] == ["before"]
    assert await texts(shared.port, session, "still there") == ["still there"]


async def test_an_app_that_yields_nothing_ends_well(shared: Instance) -> None:
    assert await texts(shared.port, new_session(), []) == []
    assert (await invoke(shared.port, new_session(), [])).json["messages"] == []


async def test_a_hundred_streams_at_once_do_not_mix(shared: Instance) -> None:
    async def one(number: int) -> list[str]:
        return await texts(shared.port, new_session(), [{"say": f"m{number}", "times": 5, "every": 0.02}])

    answers = await asyncio.gather(*(one(number) for number in range(100)))
    assert answers == [[f"m{number}"] * 5 for number in range(100)]


# -- not streamed -----------------------------------------------------------------------------


async def test_without_stream_chunks_are_joined_in_one_json_object(shared: Instance) -> None:
    session = new_session()
    response = await invoke(shared.port, session, [{"say": "Hel"}, {"say": "lo", "times": 2}])
    assert response.status == 200
    assert response.headers["content-type"].startswith("application/json")
    body = response.json
    assert set(body) == {"session_id", "run_id", "messages"}
    assert body["session_id"] == session
    assert body["run_id"] == response.headers["x-run-id"]
    assert response.headers["x-agentscope-worker"] in {worker.label for worker in shared.ready_workers()}
    assert [text_of(message) for message in body["messages"]] == ["Hellolo"]


async def test_joining_stops_at_another_name_and_at_whole_messages(shared: Instance) -> None:
    script = [
        {"say": "a", "times": 2},
        {"say": "b", "name": "other", "times": 2},
        {"say": "c", "metadata": {"chunk": False}, "times": 2},
        {"say": "d", "times": 2},
    ]
    messages = (await invoke(shared.port, new_session(), script)).json["messages"]
    told = [(message["name"], text_of(message)) for message in messages]
    assert told == [
        ("assistant", "aa"),
        ("other", "bb"),
        ("assistant", "c"),
        ("assistant", "c"),
        ("assistant", "dd"),
    ]


@pytest.mark.parametrize(
    "accept, stream, is_stream",
    [
        ("application/json", None, False),
        ("application/json", True, True),
        ("text/event-stream", None, True),
        ("text/event-stream", False, False),
        ("*/*", None, True),
        (None, None, True),
    ],
)
async def test_the_body_decides_before_the_accept_header(
    shared: Instance, accept: str | None, stream: bool | None, is_stream: bool
) -> None:
    headers = {"Content-Type": "application/json"} | ({"Accept": accept} if accept else {})
    fields = {} if stream is None else {"stream": stream}
    body = turn_body(new_session(), "x", **fields)
    response = await call(shared.port, "POST", "/invoke", body=body, headers=headers)
    expected = "text/event-stream" if is_stream else "application/json"
    assert (response.status, response.headers["content-type"].split(";")[0]) == (200, expected)


# -- what the App is told ----------------------------------------------------------------------


async def told(instance: Instance, session: str, message: Any, **fields: Any) -> dict[str, Any]:
    """What the App was told about a turn with this message."""
    metadata = {"steps": [{"context": 1}], **fields.pop("metadata", {})}
    (event,) = await streamed(instance.port, session, message, metadata=metadata, **fields)
    value: dict[str, Any] = json.loads(event.text)
    return value


async def test_the_app_gets_session_metadata_run_and_trace(shared: Instance) -> None:
    session, trace = new_session(), {"traceparent": TRACE, "tracestate": "vendor=1"}
    script, metadata = [{"context": 1}], {"user_id": "用户", "deep": {"list": [1, None, 2.5]}}
    async with Stream(shared.port, session, script, metadata=metadata, headers=trace) as stream:
        (event,) = await stream.whole()
        context = json.loads(event.text)
        assert context["run_id"] == stream.run_id
    assert context["session_id"] == session
    assert context["metadata"] == metadata
    assert context["trace"] == trace


async def test_the_app_runs_in_the_project_folder(shared: Instance) -> None:
    context = await told(shared, new_session(), {"content": "x"})
    assert Path(context["cwd"]) == shared.project
    assert Path(context["path"]) == shared.project


async def test_role_and_name_have_defaults(shared: Instance) -> None:
    plain = await told(shared, new_session(), {"content": "hello"})
    assert (plain["name"], plain["role"], plain["text"]) == ("user", "user", "hello")
    system = await told(shared, new_session(), {"content": "hello", "role": "system"})
    assert (system["name"], system["role"]) == ("system", "system")
    named = await told(shared, new_session(), {"content": "hello", "role": "user", "name": "Ada"})
    assert (named["name"], named["role"]) == ("Ada", "user")


async def test_an_id_of_the_caller_is_ignored(shared: Instance) -> None:
    context = await told(shared, new_session(), {"content": "x", "id": "chosen-by-the-caller"})
    assert context["id"]
    assert context["id"] != "chosen-by-the-caller"


async def test_content_may_be_a_list_of_blocks(shared: Instance) -> None:
    blocks = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    context = await told(shared, new_session(), {"content": blocks})
    assert context["text"].replace("\n", "") == "onetwo"


async def test_the_session_may_come_as_a_header_alone(shared: Instance) -> None:
    body = turn_body(None, [{"context": 1}], stream=False)
    headers = {"Content-Type": "application/json", "X-Session-Id": "by-header"}
    response = await call(shared.port, "POST", "/invoke", body=body, headers=headers)
    (message,) = response.json["messages"]
    assert json.loads(text_of(message))["session_id"] == "by-header"


# -- the forms in which an App may answer --------------------------------------------------------


@pytest.mark.parametrize("form", ["generator", "coroutine", "coroutine_of_iterator"])
async def test_the_forms_of_an_answer(shared: Instance, form: str) -> None:
    assert await texts(shared.port, new_session(), "hello", metadata={"form": form}) == ["hello"]


@pytest.mark.parametrize(
    "form, returned",
    [("nothing", "None"), ("coroutine_of_text", "str"), ("plain_generator", "generator")],
)
async def test_any_other_form_is_told_to_the_author(shared: Instance, form: str, returned: str) -> None:
    response = await invoke(shared.port, new_session(), "x", metadata={"form": form})
    assert (response.status, response.code) == (500, "APP_ERROR")
    message = response.json["error"]["message"]
    assert returned in message
    assert "expected" in message


@pytest.mark.parametrize("value", [None, 7, {"content": "x"}])
async def test_yielding_what_is_no_msg_is_told_to_the_author(shared: Instance, value: object) -> None:
    async with Stream(shared.port, new_session(), [{"say": "one"}, {"yield": value}]) as stream:
        assert [event.text for event in await stream.whole(error="APP_ERROR")] == ["one"]
        error = stream.events[-2].error
    assert error is not None
    assert type(value).__name__ in error["message"]


async def test_text_blocks_and_messages_may_be_yielded_together(shared: Instance) -> None:
    call = {"type": "tool_call", "id": "c", "name": "look", "input": '{"at":1}'}
    script = [
        {"say": "one"},
        {"yield": "two"},
        {"yield": call},
        {"yield": {"text": "three"}},
        {"say": "four"},
    ]
    async with Stream(shared.port, new_session(), script) as stream:
        events = await stream.whole()
    assert [event.text for event in events] == ["one", "two", "", "three", "four"]
    assert events[2].data["content"][0]["name"] == "look"
    whole = await invoke(shared.port, new_session(), script)
    blocks = [block for message in whole.json["messages"] for block in message["content"]]
    assert [block.get("text", block.get("name")) for block in blocks] == ["onetwo", "look", "threefour"]


# -- the App raises ------------------------------------------------------------------------------


async def test_an_error_before_the_first_event_is_a_status(shared: Instance) -> None:
    async with Stream(shared.port, new_session(), [{"raise": "no such flight"}]) as stream:
        response = await stream.refused()
    assert (response.status, response.code) == (500, "APP_ERROR")
    assert response.json["error"]["message"] == "RuntimeError: no such flight"
    assert b"Traceback" not in response.body
    assert b"app.py" not in response.body


async def test_an_error_after_the_first_event_is_an_event(shared: Instance) -> None:
    async with Stream(shared.port, new_session(), [{"say": "one"}, {"raise": "no such flight"}]) as stream:
        assert [event.text for event in await stream.whole(error="APP_ERROR")] == ["one"]
        assert stream.events[-2].data == {
            "error": {"code": "APP_ERROR", "message": "no such flight", "retryable": False}
        }


async def test_an_error_without_stream_is_a_status(shared: Instance) -> None:
    response = await invoke(shared.port, new_session(), [{"say": "one"}, {"raise": "no such flight"}])
    assert (response.status, response.code) == (500, "APP_ERROR")
    assert "messages" not in response.json


async def test_an_error_before_the_first_event_names_its_type(shared: Instance) -> None:
    refused = await invoke(shared.port, new_session(), [{"raise": "customer", "kind": "KeyError"}])
    assert refused.json["error"]["message"] == "KeyError: 'customer'"
    refused = await invoke(shared.port, new_session(), [{"raise": "3", "kind": "SystemExit"}])
    assert refused.json["error"]["message"] == "the App raised SystemExit(3)"


@pytest.mark.parametrize("kind", ["KeyError", "TimeoutError", "StopAsyncIteration", "CancelledError"])
async def test_whatever_the_app_raises_ends_its_turn_alone(shared: Instance, kind: str) -> None:
    session = new_session()
    async with Stream(shared.port, session, [{"say": "one"}, {"raise": "why", "kind": kind}]) as stream:
        await stream.whole(error="APP_ERROR")
    assert await texts(shared.port, session, "next") == ["next"]


async def test_the_traceback_is_in_the_log_at_error(shared: Instance) -> None:
    await invoke(shared.port, new_session(), [{"raise": "marker-of-this-traceback"}])
    log = shared.log
    assert "RuntimeError: marker-of-this-traceback" in log
    assert 'app.py", line' in log
    assert "error" in log.lower()


# -- a silent turn ---------------------------------------------------------------------------------


async def test_a_silent_turn_keeps_the_connection_alive(shared: Instance, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = [{"say": "one"}, {"wait_for": str(gate)}, {"say": "two"}]
    async with Stream(shared.port, new_session(), script) as stream:
        await stream.until(events=1, comments=2)
        assert set(stream.comments) == {"keep-alive"}
        gate.touch()
        assert [event.text for event in await stream.whole()] == ["one", "two"]


async def test_a_turn_that_says_nothing_for_long_still_begins_its_stream(
    shared: Instance, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with Stream(shared.port, new_session(), [{"wait_for": str(gate)}, {"say": "late"}]) as stream:
        await stream.until(comments=1)
        gate.touch()
        assert [event.text for event in await stream.whole()] == ["late"]


async def test_a_waiting_turn_is_told_how_many_are_before_it(shared: Instance, tmp_path: Path) -> None:
    session, gate = new_session(), tmp_path / "gate"
    async with Stream(shared.port, session, [{"say": "first"}, {"wait_for": str(gate)}]) as first:
        await first.until(events=1)
        async with Stream(shared.port, session, "second") as second:
            await second.until(comments=1)
            assert second.comments[0] == "queued 1"
            assert "x-agentscope-worker" not in second.head.headers, "no worker has taken it yet"
            gate.touch()
            assert [event.text for event in await second.whole()] == ["second"]
        await first.whole()


async def test_an_error_after_a_comment_is_an_event(shared: Instance) -> None:
    async with Stream(shared.port, new_session(), [{"sleep": 2.2}, {"raise": "late"}]) as stream:
        await stream.until(comments=1)
        assert await stream.whole(error="APP_ERROR") == []
