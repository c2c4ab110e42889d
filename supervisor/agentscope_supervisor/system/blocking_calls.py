"""Calls that may block for ever, kept away from everything else: a thread for each, few at a time.

The loop's own executor is shared: a few lookups that hang there starve whoever else wants a thread, and the
interpreter waits for its threads at the end. These are daemon threads, bounded in number, and who finds all
of them taken is told so at once.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")


class AllTaken(Exception):
    """So many calls hang already, or the system gives no thread."""


class BlockingCalls:
    """Runs blocking calls, at most `limit` at a time. `name`: of the threads."""

    def __init__(self, name: str, limit: int) -> None:
        self._name: Final = name
        self._limit: Final = limit
        self._running = 0

    async def run(self, call: Callable[[], T]) -> T:
        """The result of `call`, or what it raises. Cancelling waits for nothing; the thread goes on.

        Raises: AllTaken.
        """
        if self._running >= self._limit:
            raise AllTaken(self._name)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: Exception | None) -> None:
            self._running -= 1
            if future.done():  # cancelled
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # None only if T is

        def work() -> None:
            result, error = None, None
            try:
                result = call()
            except Exception as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, result, error)

        try:
            threading.Thread(target=work, name=self._name, daemon=True).start()
        except RuntimeError:  # the system has no thread left
            raise AllTaken(self._name) from None
        self._running += 1
        return await future
