"""`agent.stream(msg)`: what comes out, one reply at a time, and what is left after a cancellation."""

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

CALL, RESULT = ("tool_use", "tool_result") if MAJOR == 1 else ("tool_call", "tool_result")
LONG = "word " * 300


@pytest.fixture
async def agent(start: Any, server: ModelServer) -> Any:
    await start(models={"main": openai(server)})
    return make_agent()


async def look(word: str) -> str:
    return f"found {word}"


async def test_streams_new_text_under_one_id(agent: Any) -> None:
    chunks = [chunk async for chunk in agent.stream(question("one two"))]
    assert [text_of(chunk) for chunk in chunks] == ["Echo:", " one", " two"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert {(chunk.name, chunk.role) for chunk in chunks} == {("Friday", "assistant")}


async def test_cumulative_gives_snapshots(agent: Any) -> None:
    texts = [text_of(chunk) async for chunk in agent.stream(question("one two"), cumulative=True)]
    assert list(dict.fromkeys(texts)) == ["Echo:", "Echo: one", "Echo: one two"]


async def test_a_model_that_does_not_stream(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server, stream=False)})
    texts = [text_of(chunk) async for chunk in make_agent().stream(question("one two"))]
    assert texts == ["Echo: one two"]


async def test_a_tool_call_and_its_result_come_once_and_whole(start: Any, server: ModelServer) -> None:
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


async def test_await_agent_gives_the_reply(agent: Any) -> None:
    reply = await agent(question("hello"))
    assert text_of(reply) == "Echo: hello"


async def test_two_requests_to_one_agent_do_not_meet(agent: Any) -> None:
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


async def test_two_agents_reply_at_the_same_time(agent: Any, server: ModelServer) -> None:
    server.delay = 0.02
    other = make_agent("Saturday")

    async def ask(who: Any) -> str:
        return "".join([text_of(chunk) async for chunk in who.stream(question("a b c"))])

    answers = asyncio.gather(ask(agent), ask(other))
    await until(lambda: server.streaming == 2)
    assert set(await answers) == {"Echo: a b c"}


async def test_an_error_of_the_model_is_raised_and_the_agent_goes_on(agent: Any) -> None:
    with pytest.raises(Exception, match=r"401|fail"):
        await drain(agent.stream(question("fail 401")))
    assert text_of(await agent(question("hello"))) == "Echo: hello"


async def test_cancelled_at_once_when_it_waits_for_its_turn(agent: Any, server: ModelServer) -> None:
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


async def test_the_agents_own_interrupt_ends_its_reply_and_not_the_turn(
    agent: Any, server: ModelServer
) -> None:
    """AgentScope 1.x has a method for it; the App goes on with what was said, as it does without us."""
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


async def test_a_cancelled_turn_leaves_the_other_turns_alone(agent: Any, server: ModelServer) -> None:
    """Two sessions with agents of their own on one model; one is stopped in the middle."""
    server.delay = 0.01
    other = make_agent("Saturday")
    going_on = asyncio.create_task(other(question("a " * 60)))
    with pytest.raises(TimeoutError):
        await drain_for(0.2, agent.stream(question(LONG)))
    assert text_of(await going_on) == "Echo: " + "a " * 59 + "a"
    assert [name for name, _ in remembered(other)] == ["user", "Saturday"]


async def test_a_timeout_around_a_stream_is_raised(agent: Any, server: ModelServer) -> None:
    server.delay = 0.01
    with pytest.raises(TimeoutError):
        await drain_for(0.1, agent.stream(question(LONG)))
    server.delay = 0
    chunks = [text_of(chunk) async for chunk in agent.stream(question("hello"))]
    assert "".join(chunks) == "Echo: hello"


async def test_leaving_the_loop_stops_the_agent_and_keeps_what_it_said(
    agent: Any, server: ModelServer
) -> None:
    server.delay = 0.01
    chunks = agent.stream(question(LONG))
    async for chunk in chunks:
        if text_of(chunk) == " word":
            break
    await chunks.aclose()
    assert remembered(agent)[1][1].startswith("Echo: word")
    await until(lambda: server.cut_off == 1)


async def test_a_reader_that_stops_reading_stops_the_agent_when_cancelled(
    agent: Any, server: ModelServer
) -> None:
    """The agent is far ahead and waits for its reader; what it said is in its memory all the same."""
    chunks = agent.stream(question("word " * 1000))
    await anext(chunks)
    await until(lambda: server.requests)
    await asyncio.sleep(0.3)  # nothing tells when the agent has filled its queue
    await chunks.aclose()
    said = remembered(agent)[1][1]
    assert said.startswith("Echo: word word")
    assert said.count("word") < 500
    assert text_of(await agent(question("hello"))) == "Echo: hello"


async def test_cancelled_in_a_tool(start: Any, server: ModelServer) -> None:
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


async def test_an_agent_in_its_own_tool_does_not_wait_for_itself(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    agents: list[Any] = []

    async def again(word: str) -> str:
        # Not a sensible thing to do; it must not hang.
        async with asyncio.timeout(5):
            return text_of(await agents[0](question(word)))

    await add_tool(again)
    agents.append(make_agent())
    await drain_for(10, agents[0].stream(question('call again {"word": "x"}')))


async def test_a_save_after_leaving_the_loop_has_what_the_agent_said(agent: Any, server: ModelServer) -> None:
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


async def test_a_save_in_the_middle_of_a_reply_does_not_wait(agent: Any, server: ModelServer) -> None:
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


async def test_msg_as_the_guide_writes_it() -> None:
    runtime_message = Msg("user", "text", "user")
    assert text_of(runtime_message) == "text"
    assert text_of(Msg(name="user", content="text", role="user", metadata=None)) == "text"
    assert Msg(name="u", content="t", role="user", metadata={"error": True}).metadata == {"error": True}
    with pytest.raises(TypeError):
        Msg("user", "text", name="twice", role="user")


@pytest.mark.skipif(MAJOR == 1, reason="1.x has no tool permissions")
class TestPermissions:
    async def test_tools_run_unattended_by_default(self, start: Any, server: ModelServer) -> None:
        await start(models={"main": openai(server)})
        await add_tool(look)
        reply = await make_agent()(question('call look {"word": "it"}'))
        assert text_of(reply) == "Echo: found it"

    async def test_a_parked_agent_says_so_and_takes_the_next_message(
        self, start: Any, server: ModelServer
    ) -> None:
        await start(models={"main": openai(server)}, agentscope={"permission_mode": "default"})
        await add_tool(look)
        agent = make_agent()
        chunks = [c async for c in agent.stream(question('call look {"word": "it"}'))]
        assert "permission" in text_of(chunks[-1])
        texts = [text_of(chunk) async for chunk in agent.stream(question("hello"))]
        assert "".join(texts) == "Echo: hello"

    async def test_a_parked_agent_that_was_stored_recovers(self, start: Any, server: ModelServer) -> None:
        await start(models={"main": openai(server)}, agentscope={"permission_mode": "default"})
        await add_tool(look)
        agent, restored = make_agent(), make_agent()
        await agent(question('call look {"word": "it"}'))
        await runtime.session.save_session_state("s", agent=agent)
        await runtime.session.load_session_state("s", agent=restored)
        assert text_of(await restored(question("hello"))) == "Echo: hello"

    async def test_what_the_author_has_set_is_kept(self, start: Any, server: ModelServer) -> None:
        from agentscope.permission import PermissionContext, PermissionMode
        from agentscope.state import AgentState

        await start(models={"main": openai(server)})
        context = PermissionContext(mode=PermissionMode.EXPLORE)
        agent = make_agent(state=AgentState(permission_context=context))
        assert agent.state.permission_context.mode is PermissionMode.EXPLORE
        assert make_agent().state.permission_context.mode is PermissionMode.BYPASS
