"""A page of shared memory with liveness counters, which the worker writes and the supervisor reads. Pure.

The supervisor can read the page while the link is full, while the worker is stopped, and after the worker
has died. The page holds counters and no timestamps: the reader uses its own clock, and a corrupt value is
only a counter that did or did not change. The supervisor writes only the last one: a signal does not tell who
sent it, and a frame on the link may arrive after it. The class works on any writable buffer; both processes
map the same file.

    offset 0   loop      ticks of a timer on the worker's event loop
           8   thread    ticks of a thread in the worker: shows that Python code runs at all
          16   begun     highest stream id whose turn the App may have received
          24   stops     not 0: the supervisor has asked the worker to exit, with SIGTERM

Read next: `agentscope_worker.watchdog`, which writes the page.
"""

import struct
from typing import Final, Protocol

PAGE_SIZE: Final = 4096  # bytes to map; unassigned bytes are zero and reserved
TICK_EVERY: Final = 0.25  # seconds between two ticks of the event loop and of the thread

NAME_BLOCKS: Final = "AGENTSCOPE_SUPERVISOR_NAME_BLOCKS"
"""Environment variable for workers. If set, a worker logs what blocks its event loop for 0.1 s or more."""

WRITES: Final = "AGENTSCOPE_SUPERVISOR_WRITES"
"""Environment variable for workers: an inherited descriptor, to which a worker appends the path of each file
of the project before it opens it for writing, each followed by a zero byte."""

# Native byte order: both processes run on one machine, where aligned stores are atomic.
_U64: Final = struct.Struct("=Q")
_WRAP: Final = 2**64


class Buffer(Protocol):
    """The part of `mmap.mmap` and `bytearray` that struct needs."""

    def __len__(self) -> int: ...

    def __buffer__(self, flags: int, /) -> memoryview: ...


class LifePage:
    """The page, for either side. Each counter has exactly one writer."""

    def __init__(self, buffer: Buffer) -> None:
        """`buffer`: at least 32 bytes, writable."""
        self._buffer: Final = buffer

    @property
    def loop(self) -> int:
        return self._get(0)

    @property
    def thread(self) -> int:
        return self._get(8)

    @property
    def begun(self) -> int:
        return self._get(16)

    @property
    def stop_asked(self) -> bool:
        return self._get(24) != 0

    def tick_loop(self) -> None:
        self._put(0, self.loop + 1)

    def tick_thread(self) -> None:
        self._put(8, self.thread + 1)

    def begin(self, stream: int) -> None:
        """Record that the App receives this stream's turn from now on. Streams begin in ascending order."""
        self._put(16, stream)

    def ask_stop(self) -> None:
        """Record that the supervisor asks the worker to exit. Call before the signal is sent."""
        self._put(24, 1)

    def _get(self, offset: int) -> int:
        value: int = _U64.unpack_from(self._buffer, offset)[0]
        return value

    def _put(self, offset: int, value: int) -> None:
        _U64.pack_into(self._buffer, offset, value % _WRAP)
