"""`agent.stream(msg)`: its output, one reply at a time, and the state after a cancellation."""

import asyncio
import gc
from typing import Any

import pytest
from agentscope.message import Msg

from agentscope_worker.runtime import runtime
from tests.fakes.model_server import ModelServer
from tests.worker.agents import (
    MAJOR,
    add_tool,
    blocks_of,
    drain,
    drain_for,
    make_agent,
    question,
    remembered,
    text_of,
    until,
)
from tests.worker.conftest import openai

pytestmark = pytest.mark.agentscope

CALL, RESULT = ("tool_use", "tool_result") if MAJOR == 1 else ("tool_call", "tool_result")
LONG = "word " * 300


@pytest.fixture
async def agent(start: Any, server: ModelServer) -> Any:
    await start(models={"main": openai(server)})
    return make_agent()


async def look(word: str) -> str:
    return f"found {word}"


async def test_stream_yields_new_text_under_one_id(agent: Any) -> None:
    chunks = [chunk async for chunk in agent.stream(question("one two"))]
    assert [text_of(chunk) for chunk in chunks] == ["Echo:", " one", " two"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert {(chunk.name, chunk.role) for chunk in chunks} == {("Friday", "assistant")}


async def test_cumulative_stream_yields_snapshots(agent: Any) -> None:
    texts = [text_of(chunk) async for chunk in agent.stream(question("one two"), cumulative=True)]
    assert list(dict.fromkeys(texts)) == ["Echo:", "Echo: one", "Echo: one two"]


async def test_a_model_without_streaming_yields_one_message(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server, stream=False)})
    texts = [text_of(chunk) async for chunk in make_agent().stream(question("one two"))]
    assert texts == ["Echo: one two"]


async def test_a_tool_call_and_its_result_are_yielded_once_and_complete(
    start: Any, server: ModelServer
) -> None:
    await start(models={"main": openai(server)})
    await add_tool(look)
    chunks = [c async for c in make_agent().stream(question('call look {"word": "it"}'))]
    blocks = [block for chunk in chunks for block in blocks_of(chunk)]
    kinds = [block["type"] for block in blocks]
    assert kinds.count(CALL) == kinds.count(RESULT) == 1
    assert kinds[:2] == [CALL, RESULT]
    assert set(kinds[2:]) == {"text"}
    assert blocks[0]["input"] in ({"word": "it"}, '{"word": "it"}')
    assert "found it" in str(blocks[1]["output"])
    assert "".join(block["text"] for block in blocks[2:]) == "Echo: found it"


async def test_awaiting_an_agent_returns_the_reply(agent: Any) -> None:
    reply = await agent(question("hello"))
    assert text_of(reply) == "Echo: hello"


async def test_two_requests_to_one_agent_run_one_after_the_other(agent: Any) -> None:
    async def ask(text: str) -> str:
        return "".join([text_of(chunk) async for chunk in agent.stream(question(text))])

    async def ask_whole(text: str) -> str:
        return text_of(await agent(question(text)))

    answers = await asyncio.gather(ask("first"), ask("second"), ask_whole("third"))
    assert list(answers) == ["Echo: first", "Echo: second", "Echo: third"]
    memory = remembered(agent)
    turns = list(zip(memory[::2], memory[1::2], strict=True))
    assert sorted(turns) == [
        (("user", text), ("Friday", f"Echo: {text}")) for text in ("first", "second", "third")
    ]


async def test_two_agents_reply_concurrently(agent: Any, server: ModelServer) -> None:
    server.delay = 0.02
    other = make_agent("Saturday")

    async def ask(who: Any) -> str:
        return "".join([text_of(chunk) async for chunk in who.stream(question("a b c"))])

    answers = asyncio.gather(ask(agent), ask(other))
    await until(lambda: server.streaming == 2)
    assert set(await answers) == {"Echo: a b c"}


async def test_a_model_error_is_raised_and_the_agent_stays_usable(agent: Any) -> None:
    with pytest.raises(Exception, match=r"401|fail"):
        await drain(agent.stream(question("fail 401")))
    assert text_of(await agent(question("hello"))) == "Echo: hello"


async def test_a_waiting_reply_is_cancelled_at_once(agent: Any, server: ModelServer) -> None:
    server.delay = 0.02
    first = asyncio.create_task(anext(agent.stream(question(LONG))))
    await until(lambda: server.streaming)
    with pytest.raises(TimeoutError):
        await drain_for(0.05, agent.stream(question("second")))
    await first
    assert len(server.requests) == 1


async def test_memory_is_written_before_the_app_sees_the_cancellation(
    agent: Any, server: ModelServer
) -> None:
    server.delay = 0.01
    seen: list[list[tuple[str, str]]] = []
    words = 0

    async def app() -> None:
        nonlocal words
        try:
            async for _ in agent.stream(question(LONG)):
                words += 1
        except asyncio.CancelledError:
            seen.append(remembered(agent))
            raise

    turn = asyncio.create_task(app())
    await until(lambda: words > 3)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    (memory,) = seen
    assert memory[0] == ("user", LONG)
    assert memory[1][1].startswith("Echo: word")
    before = remembered(agent)
    await until(lambda: server.cut_off == 1)
    assert remembered(agent) == before
    server.delay = 0
    assert text_of(await agent(question("hello"))) == "Echo: hello"


async def test_agent_interrupt_ends_the_reply_but_not_the_turn(agent: Any, server: ModelServer) -> None:
    """AgentScope 1.x has a method for it. The App continues with the text so far, as it does without us."""
    if MAJOR == 2:
        pytest.skip("2.x has no Agent.interrupt")
    server.delay = 0.01
    said = ""
    async for chunk in agent.stream(question(LONG)):
        said += text_of(chunk)
        if said == "Echo: word":
            await agent.interrupt()
    assert said.startswith("Echo: word")
    assert len(remembered(agent)) >= 2
    server.delay = 0
    assert text_of(await agent(question("hello"))) == "Echo: hello"


async def test_a_cancelled_turn_does_not_affect_other_turns(agent: Any, server: ModelServer) -> None:
    """Two sessions have agents of their own on one model; one is cancelled in the middle."""
    server.delay = 0.01
    other = make_agent("Saturday")
    going_on = asyncio.create_task(other(question("a " * 60)))
    with pytest.raises(TimeoutError):
        await drain_for(0.2, agent.stream(question(LONG)))
    assert text_of(await going_on) == "Echo: " + "a " * 59 + "a"
    assert [name for name, _ in remembered(other)] == ["user", "Saturday"]


async def test_a_timeout_around_a_stream_raises(agent: Any, server: ModelServer) -> None:
    server.delay = 0.01
    with pytest.raises(TimeoutError):
        await drain_for(0.1, agent.stream(question(LONG)))
    server.delay = 0
    chunks = [text_of(chunk) async for chunk in agent.stream(question("hello"))]
    assert "".join(chunks) == "Echo: hello"


async def test_leaving_the_loop_stops_the_agent_and_keeps_its_text(agent: Any, server: ModelServer) -> None:
    server.delay = 0.01
    chunks = agent.stream(question(LONG))
    async for chunk in chunks:
        if text_of(chunk) == " word":
            break
    await chunks.aclose()
    assert remembered(agent)[1][1].startswith("Echo: word")
    await until(lambda: server.cut_off == 1)


async def test_cancelling_a_reader_that_has_stopped_reading_stops_the_agent(
    agent: Any, server: ModelServer
) -> None:
    """The agent is far ahead and waits for its reader; its memory still contains its text."""
    chunks = agent.stream(question("word " * 1000))
    await anext(chunks)
    await until(lambda: server.requests)
    await asyncio.sleep(0.3)  # there is no event for a full queue
    await chunks.aclose()
    said = remembered(agent)[1][1]
    assert said.startswith("Echo: word word")
    assert said.count("word") < 500
    assert text_of(await agent(question("hello"))) == "Echo: hello"


async def test_a_reply_can_be_cancelled_inside_a_tool(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    running, stopped = asyncio.Event(), asyncio.Event()

    async def wait(word: str) -> str:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return word

    await add_tool(wait)
    agent = make_agent()

    async def app() -> None:
        async for _ in agent.stream(question('call wait {"word": "x"}')):
            pass

    turn = asyncio.create_task(app())
    await asyncio.wait_for(running.wait(), 10)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert stopped.is_set()
    assert text_of(await agent(question("hello"))) == "Echo: hello"


async def test_an_agent_called_by_its_own_tool_does_not_deadlock(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    agents: list[Any] = []

    async def again(word: str) -> str:
        # Not a sensible use, but it must not hang.
        async with asyncio.timeout(30):
            return text_of(await agents[0](question(word)))

    await add_tool(again)
    agents.append(make_agent())
    await drain_for(10, agents[0].stream(question('call again {"word": "x"}')))


async def test_a_save_after_leaving_the_loop_contains_the_agents_text(
    agent: Any, server: ModelServer
) -> None:
    """The body of the loop raises, so that nothing closes the stream before `finally` saves."""
    server.delay = 0.01

    async def app() -> None:
        try:
            async for chunk in agent.stream(question(LONG)):
                if text_of(chunk) == " word":
                    raise asyncio.CancelledError
        finally:
            await runtime.session.save_session_state("s", agent=agent)

    with pytest.raises(asyncio.CancelledError):
        await app()
    restored = make_agent()
    await runtime.session.load_session_state("s", agent=restored)
    assert remembered(restored)[1][1].startswith("Echo: word")


async def test_a_save_during_a_reply_does_not_wait(agent: Any, server: ModelServer) -> None:
    server.delay = 0.01
    chunks = agent.stream(question(LONG))
    await anext(chunks)
    async with asyncio.timeout(2):
        await runtime.session.save_session_state("s", agent=agent)
    await chunks.aclose()


async def test_a_dropped_stream_leaves_no_task(agent: Any, server: ModelServer) -> None:
    server.delay = 0.01
    before = len(asyncio.all_tasks())
    async for _ in agent.stream(question(LONG)):
        break
    gc.collect()
    await until(lambda: not server.streaming)
    await until(lambda: len(asyncio.all_tasks()) <= before + server.connections)
    assert server.cut_off == 1


async def test_msg_accepts_the_arguments_of_the_guide() -> None:
    runtime_message = Msg("user", "text", "user")
    assert text_of(runtime_message) == "text"
    assert text_of(Msg(name="user", content="text", role="user", metadata=None)) == "text"
    assert Msg(name="u", content="t", role="user", metadata={"error": True}).metadata == {"error": True}
    with pytest.raises(TypeError):
        Msg("user", "text", name="twice", role="user")


@pytest.mark.skipif(MAJOR == 1, reason="1.x has no tool permissions")
class TestPermissions:
    async def test_tools_run_without_permission_by_default(self, start: Any, server: ModelServer) -> None:
        await start(models={"main": openai(server)})
        await add_tool(look)
        reply = await make_agent()(question('call look {"word": "it"}'))
        assert text_of(reply) == "Echo: found it"

    async def test_an_agent_waiting_for_permission_reports_it_and_accepts_the_next_message(
        self, start: Any, server: ModelServer
    ) -> None:
        await start(models={"main": openai(server)}, agentscope={"permission_mode": "default"})
        await add_tool(look)
        agent = make_agent()
        chunks = [c async for c in agent.stream(question('call look {"word": "it"}'))]
        assert "permission" in text_of(chunks[-1])
        texts = [text_of(chunk) async for chunk in agent.stream(question("hello"))]
        assert "".join(texts) == "Echo: hello"

    async def test_a_stored_agent_waiting_for_permission_recovers(
        self, start: Any, server: ModelServer
    ) -> None:
        await start(models={"main": openai(server)}, agentscope={"permission_mode": "default"})
        await add_tool(look)
        agent, restored = make_agent(), make_agent()
        await agent(question('call look {"word": "it"}'))
        await runtime.session.save_session_state("s", agent=agent)
        await runtime.session.load_session_state("s", agent=restored)
        assert text_of(await restored(question("hello"))) == "Echo: hello"

    async def test_a_mode_set_by_the_author_is_kept(self, start: Any, server: ModelServer) -> None:
        from agentscope.permission import PermissionContext, PermissionMode
        from agentscope.state import AgentState

        await start(models={"main": openai(server)})
        context = PermissionContext(mode=PermissionMode.EXPLORE)
        agent = make_agent(state=AgentState(permission_context=context))
        assert agent.state.permission_context.mode is PermissionMode.EXPLORE
        assert make_agent().state.permission_context.mode is PermissionMode.BYPASS
