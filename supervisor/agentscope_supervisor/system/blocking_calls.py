"""Runs calls that may block indefinitely, each in its own daemon thread, with a limit on their number.

The event loop's default executor does not fit: a few lookups that hang would take all of its threads, and the
interpreter waits for these threads at exit. The threads here are daemon threads. When the limit is reached,
the caller gets an error at once instead of waiting.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")


class NoThreadAvailable(Exception):
    """The limit of concurrent calls is reached, or the system cannot start another thread."""


class BlockingCalls:
    """Runs at most `limit` blocking calls at a time. `name` is the name of the threads."""

    def __init__(self, name: str, limit: int) -> None:
        self._name: Final = name
        self._limit: Final = limit
        self._running = 0

    async def run(self, call: Callable[[], T]) -> T:
        """Return the result of `call`, or raise its exception.

        Cancellation returns at once; the thread keeps running until `call` returns.

        Raises: NoThreadAvailable.
        """
        if self._running >= self._limit:
            raise NoThreadAvailable(self._name)
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
        except RuntimeError:  # the system cannot start another thread
            raise NoThreadAvailable(self._name) from None
        self._running += 1
        return await future
