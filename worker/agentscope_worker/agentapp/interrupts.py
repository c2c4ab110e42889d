"""Interrupt backends: where the state of each run is kept, and how a stop signal reaches it.

`BaseInterruptBackend` is the interface of agentscope-runtime, which a project may implement itself.
`LocalInterruptBackend` is the default. `redis_interrupts` has the one for several hosts.
"""

from __future__ import annotations

import asyncio
import enum
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from typing import ClassVar, Final


class TaskState(enum.Enum):
    IDLE = "IDLE"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    FINISHED = "FINISHED"
    ERROR = "ERROR"


class InterruptSignal(enum.Enum):
    STOP = "STOP"
    PAUSE = "PAUSE"
    RESUME = "RESUME"


def _nothing() -> None:
    """The default of `on_subscribed`."""


class BaseInterruptBackend(ABC):
    """Keeps states by key, and passes messages on channels. `ttl` is in seconds."""

    @abstractmethod
    async def publish_event(self, channel: str, message: str) -> None:
        """Pass a message to all listeners of a channel."""

    @abstractmethod
    async def subscribe_listen(self, channel: str) -> AsyncGenerator[str, None]:
        """Yield the messages of a channel.

        A backend may take `on_subscribed`, and call it as soon as no message is missed: the handler of a run
        starts only then.
        """
        yield ""

    @abstractmethod
    async def set_task_state(self, key: str, state: TaskState, ttl: int = 3600) -> None: ...

    @abstractmethod
    async def compare_and_set_state(
        self,
        key: str,
        new_state: TaskState,
        expected_state: TaskState,
        negate: bool = False,
        ttl: int = 3600,
    ) -> bool:
        """Set the state if it is `expected_state`, or with `negate` if it is not. Returns whether it was set.

        This must be atomic.
        """

    @abstractmethod
    async def get_task_state(self, key: str) -> TaskState | None: ...

    @abstractmethod
    async def delete_task_state(self, key: str) -> None: ...

    @abstractmethod
    async def aclose(self) -> None:
        """Release connections, and end all listeners."""


class LocalInterruptBackend(BaseInterruptBackend):
    """States and signals of this process.

    A host with several workers sets `broadcast`, which passes a signal to the other workers; they hand it to
    `deliver` of their own backends. The state of a run that has ended is kept until its session runs again,
    for at most MAX_STATES sessions.
    """

    MAX_STATES: ClassVar[int] = 10_000
    broadcast: ClassVar[Callable[[str, str], None] | None] = None

    def __init__(self) -> None:
        self._states: Final[dict[str, TaskState]] = {}
        self._listeners: Final[dict[str, set[asyncio.Queue[str | None]]]] = {}

    async def publish_event(self, channel: str, message: str) -> None:
        self.deliver(channel, message)
        if LocalInterruptBackend.broadcast is not None:
            LocalInterruptBackend.broadcast(channel, message)

    def deliver(self, channel: str, message: str) -> None:
        """Pass a message to the listeners in this process."""
        for queue in self._listeners.get(channel, ()):
            queue.put_nowait(message)

    async def subscribe_listen(
        self, channel: str, on_subscribed: Callable[[], None] = _nothing
    ) -> AsyncGenerator[str, None]:
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._listeners.setdefault(channel, set()).add(queue)
        on_subscribed()
        try:
            while (message := await queue.get()) is not None:
                yield message
        finally:
            listeners = self._listeners.get(channel, set())
            listeners.discard(queue)
            if not listeners:
                self._listeners.pop(channel, None)

    async def set_task_state(self, key: str, state: TaskState, ttl: int = 3600) -> None:
        self._set(key, state)

    async def compare_and_set_state(
        self,
        key: str,
        new_state: TaskState,
        expected_state: TaskState,
        negate: bool = False,
        ttl: int = 3600,
    ) -> bool:
        if (self._states.get(key) == expected_state) == negate:
            return False
        self._set(key, new_state)
        return True

    async def get_task_state(self, key: str) -> TaskState | None:
        return self._states.get(key)

    async def delete_task_state(self, key: str) -> None:
        self._states.pop(key, None)

    async def aclose(self) -> None:
        for queues in self._listeners.values():
            for queue in queues:
                queue.put_nowait(None)
        self._states.clear()

    def _set(self, key: str, state: TaskState) -> None:
        self._states.pop(key, None)
        self._states[key] = state
        if len(self._states) > self.MAX_STATES:
            oldest = next(
                (each for each, kept in self._states.items() if kept is not TaskState.RUNNING), None
            )
            if oldest is not None:
                del self._states[oldest]
