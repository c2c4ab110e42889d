"""The interruption of the AgentApp guide: catch CancelledError, stop the agent, raise on, save in `finally`.

On 1.x as the guide has it, but for what names its own server; 2.x has no `Agent.interrupt`, and needs none.
"""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

import pytest

from tests.fakes.model_server import ModelServer, in_thread
from tests.harness.client import Stream, new_session, stop, streamed, texts
from tests.harness.instance import Instance
from tests.harness.projects import written
from tests.harness.waiting import eventually

pytestmark = pytest.mark.agentscope

MAJOR: Final = int(version("agentscope").split(".")[0])
# What the next turn sends to the model, besides the rest: what was asked, what the agent had said by then, on
# 1.x what that adds for the model, and what is asked now.
NOTED: Final = ["you have interrupted me"] if MAJOR == 1 else []
WORDS: Final = ["word0 word1 word2", "Echo: word0 word1", *NOTED, "and then?"]
CALL: Final = 'call look {"word": "whose arguments take the model half a second to say, and then some"}'
STORY: Final = " ".join(f"word{number}" for number in range(500))  # that the model repeats, word by word

GUIDE_1X: Final = """
    import asyncio

    from agentscope.agent import ReActAgent
    from agentscope.formatter import OpenAIChatFormatter
    from agentscope.memory import InMemoryMemory
    from agentscope.pipeline import stream_printing_messages
    from agentscope.runtime import AgentApp, runtime
    from agentscope.tool import Toolkit, execute_python_code


    class App(AgentApp):
        async def __call__(self, msg, ctx):
            session_id, user_id = ctx.session_id, ctx.metadata["user_id"]

            toolkit = Toolkit()
            toolkit.register_tool_function(execute_python_code)

            agent = ReActAgent(
                name="Friday",
                model=runtime.models.main,
                sys_prompt="You're a helpful assistant named Friday.",
                toolkit=toolkit,
                memory=InMemoryMemory(),
                formatter=OpenAIChatFormatter(),
            )

            await runtime.session.load_session_state(
                session_id=session_id,
                user_id=user_id,
                agent=agent,
            )

            try:
                async for msg, last in stream_printing_messages(
                    agents=[agent],
                    coroutine_task=agent(msg),
                ):
                    yield msg

            except asyncio.CancelledError:
                print(f"Task {session_id} was manually interrupted.")

                await agent.interrupt()

                raise

            finally:
                await runtime.session.save_session_state(
                    session_id=session_id,
                    user_id=user_id,
                    agent=agent,
                )
"""

ON_2X: Final = """
    import asyncio

    from agentscope.agent import Agent
    from agentscope.runtime import AgentApp, runtime


    class App(AgentApp):
        async def __call__(self, msg, ctx):
            session_id, user_id = ctx.session_id, ctx.metadata["user_id"]

            agent = Agent(
                name="Friday",
                model=runtime.models.main,
                system_prompt="You're a helpful assistant named Friday.",
                toolkit=runtime.tools,
            )

            await runtime.session.load_session_state(session_id, user_id, agent=agent)

            try:
                async for chunk in agent.stream(msg):
                    yield chunk

            except asyncio.CancelledError:
                print(f"Task {session_id} was manually interrupted.")
                raise

            finally:
                await runtime.session.save_session_state(session_id, user_id, agent=agent)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with in_thread() as running:
        running.delay = 0.02  # seconds for each word: the story takes ten
        yield running


@pytest.fixture(scope="module")
def instance(server: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("interrupt")
    config = f"""
        models:
          main: {{provider: openai, model: m, api_key: k, base_url: "{server.base_url}"}}
    """
    project = written(folder / "project", GUIDE_1X if MAJOR == 1 else ON_2X, config)
    with Instance(project, folder, workers=1) as running:
        yield running.start()


async def test_a_turn_that_is_stopped_saves_the_whole_state(instance: Instance, server: ModelServer) -> None:
    session, metadata = new_session(), {"user_id": "uu-123"}
    async with Stream(instance.port, session, STORY, metadata=metadata) as stream:
        await stream.until(events=5)
        assert await stop(instance.port, session_id=session) == 1
        said = "".join(event.text for event in await stream.whole(error="INTERRUPTED"))
    assert "word499" not in said, "it was cut short"
    assert f"Task {session} was manually interrupted." in instance.log
    await eventually(lambda: server.cut_off == 1, 30, "the model is not asked for more")

    # The next turn makes a new agent: what it sends to the model is what was stored.
    before = len(server.requests)
    await texts(instance.port, session, "and then?", metadata=metadata)
    first, *_ = server.requests[before:]
    sent = [str(part["content"]) for part in first.body["messages"]]
    places = [next(i for i, text in enumerate(sent) if words in text) for words in WORDS]
    assert places == sorted(places), "as it was said"
    assert sum("word499" in text for text in sent) == 1, "what the agent did not come to say is not there"
    assert len(list((instance.project / "sessions").glob("*.json"))) == 1


@pytest.mark.parametrize("way", ["stop", "leave", "interrupt"])
async def test_a_session_goes_on_after_its_turn_ended_in_the_arguments_of_a_call(
    instance: Instance, server: ModelServer, way: str
) -> None:
    """The model server checks the history, as OpenAI, DashScope and DeepSeek do."""
    session, metadata = new_session(), {"user_id": "uu-123"}
    said, cut_off = server.pieces, server.cut_off
    async with Stream(instance.port, session, CALL, metadata=metadata) as stream:
        await eventually(lambda: server.pieces >= said + 4, 30, "the model says the arguments")
        if way == "stop":
            assert await stop(instance.port, session_id=session) == 1
        elif way == "leave":
            stream.leave()
        more = {"on_busy": "interrupt"} if way == "interrupt" else {}
        events = await streamed(instance.port, session, "and then?", metadata=metadata, **more)
    answer = [event.text for event in events if event.text]
    # The App of the guide on 1.x passes on what the agent has said so far; on 2.x, what is new.
    assert (answer[-1] if MAJOR == 1 else "".join(answer)).startswith("Echo: and")
    assert server.cut_off == cut_off + 1
    assert [event.text for event in await streamed(instance.port, session, "fine", metadata=metadata)]
