"""What leaves for a client's transport, in which writes."""

import asyncio
from typing import Any

from agentscope_supervisor.http1.chunked_writer import ChunkedWriter


class Wire(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closing = False

    def write(self, data: Any) -> None:
        assert not self.closing, "uvloop would raise"
        self.writes.append(data)

    def is_closing(self) -> bool:
        return self.closing


def test_the_head_leaves_with_the_first_piece_and_the_end_with_the_last() -> None:
    wire = Wire()
    outlet = ChunkedWriter(wire, False, head=b"HEAD ", end=b"END")
    assert wire.writes == []
    for piece in (b"one", b"two"):
        outlet.write(piece)
    outlet.write_last(b"x" * 16)
    assert wire.writes == [b"HEAD 3\r\none\r\n", b"3\r\ntwo\r\n", b"10\r\n" + b"x" * 16 + b"\r\nEND"]


def test_a_stream_that_has_only_an_end_is_one_write() -> None:
    wire = Wire()
    ChunkedWriter(wire, False, head=b"HEAD ", end=b"END").write_last(b"bye")
    assert wire.writes == [b"HEAD 3\r\nbye\r\nEND"]


def test_a_client_that_knows_no_chunks_gets_the_bytes_alone() -> None:
    wire = Wire()
    outlet = ChunkedWriter(wire, False, chunked=False)
    outlet.write(b"one")
    outlet.write_last(b"two")
    assert wire.writes == [b"one", b"two"]


def test_nothing_follows_the_end() -> None:
    """A comment that comes late would be read as the next response."""
    wire = Wire()
    outlet = ChunkedWriter(wire, False, end=b"END")
    outlet.write_last(b"bye")
    outlet.write(b": keep-alive")
    assert len(wire.writes) == 1


def test_nothing_is_written_to_a_transport_that_closes() -> None:
    wire = Wire()
    outlet = ChunkedWriter(wire, False, head=b"HEAD ")
    wire.closing = True
    outlet.write(b"one")
    outlet.write_last(b"two")
    assert wire.writes == []
