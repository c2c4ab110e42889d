"""A page of memory that a worker writes and the supervisor reads: signs of life that need no socket. Pure.

It can be read while the link is full, while the worker is stopped, and after its death. It holds counters,
no times: whoever reads them goes by its own clock, and garbage in them is no more than a counter that
changes or does not. Pure: it works on any writable buffer; the sides map the same file.

    offset 0   loop      turns of the worker's event loop that a timer has seen
           8   thread    turns of a thread of the worker: it can run Python at all
          16   begun     the last stream whose turn the App may have seen
"""

import struct
from typing import Final, Protocol

PAGE_SIZE: Final = 4096  # bytes to map; what is not named above is zero and may be given a meaning later
TICK_EVERY: Final = 0.25  # seconds between two ticks of the loop and of the thread

NAME_BLOCKS: Final = "AGENTSCOPE_SUPERVISOR_NAME_BLOCKS"
"""Environment variable of workers; set, they log what blocks their loop for a tenth of a second."""

_U64: Final = struct.Struct("=Q")  # native: both sides are on one machine, and aligned stores stay whole
_WRAP: Final = 2**64


class Buffer(Protocol):
    """What `mmap.mmap` and `bytearray` have in common, as far as struct needs it."""

    def __len__(self) -> int: ...

    def __buffer__(self, flags: int, /) -> memoryview: ...


class LifePage:
    """The page, from either side. One writer for each counter."""

    def __init__(self, buffer: Buffer) -> None:
        """`buffer`: at least 24 bytes, writable on the worker's side."""
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

    def tick_loop(self) -> None:
        self._put(0, self.loop + 1)

    def tick_thread(self) -> None:
        self._put(8, self.thread + 1)

    def begin(self, stream: int) -> None:
        """Note that the App sees this stream's turn from now on. Streams begin in the order of their ids."""
        self._put(16, stream)

    def _get(self, offset: int) -> int:
        value: int = _U64.unpack_from(self._buffer, offset)[0]
        return value

    def _put(self, offset: int, value: int) -> None:
        _U64.pack_into(self._buffer, offset, value % _WRAP)
