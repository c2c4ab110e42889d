"""Runs the main coroutine of a process on a loop that can be left: for the import of app.py.

A file may run event loops of its own, with `asyncio.run`, and Python forbids that while another one runs in
the same thread. Owns only this order; everything that waits on the loop waits until the function returns.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")


class LoopRunner:
    """Runs one coroutine at a time. `runner`: owns the loop, and is not closed here."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner: Final = runner
        self._asked: asyncio.Future[Callable[[], None]]

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """The result of `main`, which may call `outside`."""
        loop = self._runner.get_loop()
        task = loop.create_task(main)
        while True:
            self._asked = loop.create_future()
            self._runner.run(self._until_asked(task))
            if task.done():
                return task.result()
            self._asked.result()()

    async def outside(self, function: Callable[[], T]) -> T:
        """Call a function while the loop does not run; returns its result, or raises its exception.

        The loop is still the current one of the thread: `asyncio.get_event_loop` returns it.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        def call() -> None:
            asyncio.set_event_loop(loop)
            try:
                result.set_result(function())
            except Exception as error:
                result.set_exception(error)

        self._asked.set_result(call)
        return await result

    async def _until_asked(self, task: asyncio.Task[Any]) -> None:
        await asyncio.wait({task, self._asked}, return_when=asyncio.FIRST_COMPLETED)
