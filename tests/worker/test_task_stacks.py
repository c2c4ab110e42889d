"""The stacks of waiting tasks."""

import asyncio
from collections.abc import AsyncIterator

from agentscope_worker import task_stacks


async def test_a_stack_passes_coroutines_and_async_generators() -> None:
    forever = asyncio.get_running_loop().create_future()

    async def model() -> None:
        await forever

    async def chunks() -> AsyncIterator[str]:
        await model()
        yield ""

    async def turn() -> None:
        async for _ in chunks():
            pass

    task = asyncio.create_task(turn(), name="turn-1")
    await asyncio.sleep(0)
    heading, *lines = task_stacks.stack_of(task)
    assert heading == "Task turn-1 (most recent call first):"
    assert [line.rpartition(".")[2] for line in lines] == ["model", "chunks", "turn"]
    assert all(line.startswith(f'  File "{__file__}", line ') for line in lines)
    task.cancel()
    assert await asyncio.gather(task, return_exceptions=True)
    assert task_stacks.stack_of(task)[1:] == ["  <no Python frame>"]
