"""OpenAI's own client against an instance: completions, errors, and one run seen from two sides."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import openai
import psutil
import pytest
from openai import AsyncOpenAI

from tests.conftest import StartInstance
from tests.harness.client import Watch, call, invoke, new_session, stop
from tests.harness.instance import Instance
from tests.harness.openai_client import client_of, text_of, user

HELLO: Final = [{"say": "Hello"}, {"say": ", world"}]
SLOW: Final = [{"say": "tick ", "times": 500, "every": 0.02}]


@pytest.fixture
async def client(shared: Instance) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(shared.port) as client:
        yield client


async def test_a_completion_is_whole_or_streamed(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["agent"]
    whole = await client.chat.completions.create(model="m", messages=user(HELLO))
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("Hello, world", "stop")
    usage = {"include_usage": True}
    stream = await client.chat.completions.create(
        model="m", messages=user(HELLO), stream=True, stream_options=usage
    )
    chunks = [chunk async for chunk in stream]
    assert text_of(chunks) == "Hello, world"
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


async def test_turns_of_a_session_are_one_conversation_in_all_dialects(
    client: AsyncOpenAI, shared: Instance
) -> None:
    async def count(**where: Any) -> tuple[str | None, str | None]:
        raw = await client.chat.completions.with_raw_response.create(
            model="m", messages=user([{"count": 1}]), **where
        )
        return raw.parse().choices[0].message.content, raw.headers.get("x-session-id")

    session = new_session()
    assert await count(metadata={"session_id": session}) == ("1", None)
    assert await count(extra_headers={"X-Session-Id": session}) == ("2", None)
    assert await count(user=session) == ("3", None)
    native = await invoke(shared.port, session, [{"count": 1}])
    assert native.json["messages"][0]["content"][0]["text"] == "4"
    text, made = await count()
    assert text == "1"
    assert made is not None
    assert await count(metadata={"session_id": made}) == ("2", None)


async def test_errors_have_the_shape_and_the_status_of_openai(client: AsyncOpenAI, shared: Instance) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.BadRequestError, match="no message with the role user"):
        await create(model="m", messages=[{"role": "assistant", "content": "x"}])
    with pytest.raises(openai.InternalServerError, match="it broke") as raised:
        await create(model="m", messages=user([{"raise": "it broke"}]))
    assert (raised.value.code, raised.value.response.headers["x-should-retry"]) == ("APP_ERROR", "false")
    with pytest.raises(openai.InternalServerError, match="it broke"):
        await create(model="m", messages=user([{"raise": "it broke"}]), stream=True)
    stream = await create(model="m", messages=user([{"say": "a"}, {"raise": "late"}]), stream=True)
    with pytest.raises(openai.APIError, match="late") as late:
        async for _ in stream:
            pass
    assert late.value.code == "APP_ERROR"
    response = await call(shared.port, "GET", "/v1/chat/completions")
    assert (response.status, response.json["error"]["type"]) == (405, "invalid_request_error")


async def test_a_run_is_watched_and_stopped_by_its_id(client: AsyncOpenAI, shared: Instance) -> None:
    stream = await client.chat.completions.create(model="m", messages=user(SLOW), stream=True)
    run_id = stream.response.headers["x-run-id"]
    seen = [(await anext(stream)).choices[0].delta.content for _ in range(3)]
    async with Watch(shared.port, run_id) as watch:
        await watch.until(events=3)
        assert await stop(shared.port, run_id=run_id) == 1
        await watch.to_end()
    watched = [event.data["choices"][0]["delta"]["content"] for event in watch.events[:3]]
    assert watched == seen == ["", "tick ", "tick "]
    with pytest.raises(openai.APIError) as stopped:
        async for _ in stream:
            pass
    assert stopped.value.code == "INTERRUPTED"
    state = (await call(shared.port, "GET", f"/runs/{run_id}")).json
    assert (state["dialect"], state["error"]["code"], state["messages"]) == ("chat", "INTERRUPTED", None)


async def test_a_comment_breaks_no_stream(client: AsyncOpenAI) -> None:
    script = [{"say": "a"}, {"sleep": 1.4}, {"say": "b"}]  # the shared instance sends a comment each second
    stream = await client.chat.completions.create(model="m", messages=user(script), stream=True)
    assert text_of([chunk async for chunk in stream]) == "ab"


async def test_a_key_answers_with_the_first_run(client: AsyncOpenAI) -> None:
    headers = {"Idempotency-Key": new_session()}
    answers = [
        await client.chat.completions.with_raw_response.create(
            model="m", messages=user([{"pid": 1}]), extra_headers=headers
        )
        for _ in range(2)
    ]
    assert answers[0].content == answers[1].content
    assert [each.headers.get("idempotent-replayed") for each in answers] == [None, "true"]
    assert answers[0].headers["x-session-id"] == answers[1].headers["x-session-id"]


async def test_a_lost_worker_ends_its_streams_and_a_busy_session_is_not_retried(
    start_instance: StartInstance,
) -> None:
    instance = start_instance(workers=1, sessions={"on_busy": "reject"})
    async with client_of(instance.port) as client:
        session = {"session_id": new_session()}
        stream = await client.chat.completions.create(
            model="m", messages=user(SLOW), stream=True, metadata=session
        )
        await anext(stream)
        with pytest.raises(openai.ConflictError) as busy:
            await client.chat.completions.create(model="m", messages=user(HELLO), metadata=session)
        assert busy.value.response.headers["x-should-retry"] == "false"
        psutil.Process(instance.ready_workers()[0].pid).kill()
        with pytest.raises(openai.APIError, match="the worker died") as lost:
            async for _ in stream:
                pass
        assert lost.value.code == "WORKER_LOST"
    metrics = (await call(instance.port, "GET", "/metrics")).body
    assert b'agentscope_turns_total{dialect="chat",outcome="WORKER_LOST"} 1' in metrics


# -- responses -----------------------------------------------------------------------------------------


async def events_of(stream: Any) -> list[Any]:
    return [event async for event in stream]


async def test_a_response_is_whole_or_streamed(client: AsyncOpenAI) -> None:
    call = {"type": "tool_call", "id": "c1", "name": "look", "input": '{"at":1}'}
    result = {"type": "tool_result", "id": "c1", "name": "look", "output": "42"}
    script = json.dumps([*HELLO, {"yield": call}, {"yield": result}, {"say": "done"}])
    whole = await client.responses.create(model="m", input=script)
    assert (whole.status, whole.output_text) == ("completed", "Hello, worlddone")
    assert [item.type for item in whole.output] == ["message", "mcp_call", "message"]
    async with client.responses.stream(model="m", input=script) as stream:
        events = await events_of(stream)
        final = await stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [item.type for item in final.output] == [item.type for item in whole.output]
    assert final.output_text == whole.output_text
    kept = await client.responses.retrieve(final.id)
    assert kept.output_text == final.output_text


async def test_a_stream_of_a_response_is_resumed_after_a_cut(client: AsyncOpenAI) -> None:
    script = json.dumps([{"say": "tick ", "times": 40, "every": 0.02}])
    stream = await client.responses.create(model="m", input=script, stream=True, background=True)
    seen = [await anext(stream) for _ in range(7)]
    await stream.close()  # the turn goes on, because it runs in the background
    response_id = seen[0].response.id
    rest = await events_of(
        await client.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number)
    )
    numbers = [event.sequence_number for event in [*seen, *rest]]
    assert numbers == list(range(len(numbers)))
    assert rest[-1].response.output_text == "tick " * 40
    again = await events_of(await client.responses.retrieve(response_id, stream=True))
    assert again == [*seen, *rest]


async def test_a_response_runs_in_the_background_and_is_cancelled_and_deleted(client: AsyncOpenAI) -> None:
    created = await client.responses.create(model="m", input=json.dumps(SLOW), background=True)
    assert (created.status, created.output) == ("queued", [])
    assert abs(created.created_at - time.time()) < 600, "the time of the request"
    assert (await client.responses.retrieve(created.id)).status in ("queued", "in_progress")
    with pytest.raises(openai.ConflictError):
        await client.responses.delete(created.id)
    assert (await client.responses.cancel(created.id)).status == "cancelled"
    assert (await client.responses.cancel(created.id)).status == "cancelled"
    kept = await client.responses.retrieve(created.id)
    assert (kept.status, kept.error is not None) == ("cancelled", True)
    items = await client.responses.input_items.list(created.id)
    assert [item.content[0].text for item in items.data] == [json.dumps(SLOW)]
    await client.responses.delete(created.id)
    with pytest.raises(openai.APIStatusError) as gone:
        await client.responses.retrieve(created.id)
    assert gone.value.status_code == 410


async def test_responses_follow_each_other_in_a_session(client: AsyncOpenAI, shared: Instance) -> None:
    count = json.dumps([{"count": 1}])
    first = await client.responses.create(model="m", input=count)
    second = await client.responses.create(model="m", input=count, previous_response_id=first.id)
    assert first.conversation is not None
    third = await client.responses.create(model="m", input=count, conversation=first.conversation.id)
    assert [each.output_text for each in (first, second, third)] == ["1", "2", "3"]
    for wrong in ("resp_" + "0" * 32, "other"):
        with pytest.raises(openai.BadRequestError, match="not kept"):
            await client.responses.create(model="m", input="x", previous_response_id=wrong)
    with pytest.raises(openai.BadRequestError, match="together"):
        await client.responses.create(model="m", input="x", previous_response_id=first.id, conversation="c")


async def test_errors_of_responses(client: AsyncOpenAI, shared: Instance) -> None:
    failing = json.dumps([{"say": "a"}, {"raise": "it broke"}])
    with pytest.raises(openai.InternalServerError, match="it broke"):
        await client.responses.create(model="m", input=failing)
    events = await events_of(await client.responses.create(model="m", input=failing, stream=True))
    last = events[-1]
    assert (last.type, last.sequence_number) == ("response.failed", len(events) - 1)
    assert (last.response.status, last.response.error.code) == ("failed", "APP_ERROR")
    assert (await client.responses.retrieve(last.response.id)).error.message == ("RuntimeError: it broke")
    chat = await client.chat.completions.create(model="m", messages=user(HELLO))
    for unknown in ("resp_other", chat.id.removeprefix("chatcmpl-")):
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(unknown)
    wrong = await call(shared.port, "GET", f"/v1/responses/{last.response.id}?stream=true&starting_after=x")
    assert (wrong.status, wrong.json["error"]["type"]) == (400, "invalid_request_error")
    whole = await client.responses.create(model="m", input="x")
    with pytest.raises(openai.NotFoundError, match="has no events"):
        await client.responses.retrieve(whole.id, stream=True)
    also = await call(shared.port, "GET", f"/compatible-mode/v1/responses/{whole.id}")
    assert also.json["id"] == whole.id
