"""The host: a complete startup, and each return type that an App may use."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agentscope.message import Msg

from agentscope_protocol.config.settings import Settings
from agentscope_worker import host
from agentscope_worker.host import BootError
from agentscope_worker.runtime import SessionContext, runtime
from tests.worker.agents import text_of

pytestmark = pytest.mark.agentscope

Write = Callable[..., Path]
CONTEXT = SessionContext("s")


@pytest.fixture(autouse=True)
async def stopped() -> AsyncIterator[None]:
    yield
    await runtime.shutdown()


def reply(text: str = "hi") -> Msg:
    return Msg(name="a", content=text, role="assistant")


async def answers(app: Any) -> list[str]:
    return [text_of(msg) async for msg in await host.start_answer(app, reply(), CONTEXT)]


class TestBoot:
    async def test_boot_starts_a_project(self, write_project: Write) -> None:
        project = write_project(
            """
            from agentscope.runtime import AgentApp, runtime

            class App(AgentApp):
                async def on_startup(self):
                    self.seen = runtime.session, runtime.tools, runtime.config
                async def __call__(self, msg, ctx):
                    yield msg
            """
        )
        started = await host.boot(Settings(), project)
        assert started is runtime
        assert runtime.is_initialized
        assert runtime.app.seen[2] is runtime.config  # type: ignore[attr-defined]
        assert await answers(runtime.app) == ["hi"]

    async def test_agentscope_runtime_is_this_package(self, write_project: Write) -> None:
        await host.boot(Settings(), write_project())
        import agentscope.runtime

        assert sys.modules["agentscope.runtime"] is agentscope.runtime
        assert agentscope.runtime.runtime is runtime

    async def test_a_failing_on_startup_may_be_retried(self, write_project: Write) -> None:
        project = write_project(
            """
            from agentscope.runtime import AgentApp

            class App(AgentApp):
                async def on_startup(self):
                    raise ConnectionError("no database")
                async def __call__(self, msg, ctx):
                    yield msg
            """
        )
        with pytest.raises(BootError) as failure:
            await host.boot(Settings(), project)
        assert not failure.value.permanent
        message = failure.value.message
        assert message.startswith(f"{project}/app.py, line 6: App.on_startup() raised Connection")
        assert "singleton.py" not in message
        assert not runtime.is_initialized
        await host.boot(Settings(), write_project())

    async def test_without_hooks_the_app_is_only_constructed(self, write_project: Write) -> None:
        project = write_project(
            """
            from agentscope.runtime import AgentApp

            class App(AgentApp):
                async def on_startup(self):
                    raise ValueError("started")
                async def on_shutdown(self):
                    raise ValueError("stopped")
                async def __call__(self, msg, ctx):
                    yield msg
            """
        )
        started = await host.boot(Settings(), project, hooks=False)
        assert type(started.app).__name__ == "App"
        await started.shutdown()


class TestAnswer:
    async def test_an_async_generator_is_accepted(self) -> None:
        async def app(msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
            yield reply("1")
            yield reply("2")

        assert await answers(app) == ["1", "2"]

    async def test_a_coroutine_that_returns_a_msg_is_accepted(self) -> None:
        async def app(msg: Msg, ctx: SessionContext) -> Msg:
            return reply("1")

        assert await answers(app) == ["1"]

    async def test_a_coroutine_that_returns_an_iterator_is_accepted(self) -> None:
        async def numbers() -> AsyncIterator[Msg]:
            yield reply("1")

        async def app(msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
            return numbers()

        assert await answers(app) == ["1"]

    async def test_an_async_iterable_is_accepted(self) -> None:
        class Numbers:
            async def __aiter__(self) -> AsyncIterator[Msg]:
                yield reply("1")

        assert await answers(lambda msg, ctx: Numbers()) == ["1"]

    @pytest.mark.parametrize("value, named", [(None, "None"), ("x", "a str"), ([], "a list")])
    async def test_a_coroutine_that_returns_another_type_is_rejected(self, value: Any, named: str) -> None:
        async def app(msg: Msg, ctx: SessionContext) -> Any:
            return value

        with pytest.raises(TypeError, match=f"coroutine returned {named}; expected an async gen"):
            await host.start_answer(app, reply(), CONTEXT)  # type: ignore[arg-type]

    async def test_a_def_that_is_not_async_is_rejected(self) -> None:
        def generator(msg: Msg, ctx: SessionContext) -> Iterator[Msg]:
            yield reply()

        def plain(msg: Msg, ctx: SessionContext) -> Msg:
            return reply()

        with pytest.raises(TypeError, match="a generator, from a def that is not async; expected"):
            await host.start_answer(generator, reply(), CONTEXT)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="it returned a Msg; expected"):
            await host.start_answer(plain, reply(), CONTEXT)  # type: ignore[arg-type]

    async def test_an_error_of_the_app_is_raised(self) -> None:
        async def app(msg: Msg, ctx: SessionContext) -> Msg:
            raise KeyError("x")

        with pytest.raises(KeyError):
            await host.start_answer(app, reply(), CONTEXT)  # type: ignore[arg-type]

    async def test_a_cancellation_reaches_the_coroutine(self) -> None:
        cancelled = asyncio.Event()

        async def app(msg: Msg, ctx: SessionContext) -> Msg:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return reply()

        turn = asyncio.create_task(host.start_answer(app, reply(), CONTEXT))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        turn.cancel()
        with pytest.raises(asyncio.CancelledError):
            await turn
        assert cancelled.is_set()
