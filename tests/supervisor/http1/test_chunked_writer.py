"""What leaves for a client's transport, in which writes."""

import asyncio
from typing import Any

from agentscope_supervisor.http1.chunked_writer import ChunkedWriter


class Wire(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closing = self.aborted = False

    def write(self, data: Any) -> None:
        assert not self.closing, "uvloop would raise"
        self.writes.append(data)

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.aborted = True


def test_the_head_leaves_with_the_first_piece_and_the_end_with_the_last() -> None:
    wire = Wire()
    writer = ChunkedWriter(wire, False, head=b"HEAD ", end=b"END")
    assert wire.writes == []
    for piece in (b"one", b"two"):
        writer.write(piece)
    writer.write_last(b"x" * 16)
    assert wire.writes == [b"HEAD 3\r\none\r\n", b"3\r\ntwo\r\n", b"10\r\n" + b"x" * 16 + b"\r\nEND"]


def test_a_stream_that_has_only_an_end_is_one_write() -> None:
    wire = Wire()
    ChunkedWriter(wire, False, head=b"HEAD ", end=b"END").write_last(b"bye")
    assert wire.writes == [b"HEAD 3\r\nbye\r\nEND"]


def test_a_client_that_knows_no_chunks_gets_the_bytes_alone() -> None:
    wire = Wire()
    writer = ChunkedWriter(wire, False, chunked=False)
    writer.write(b"one")
    writer.write_last(b"two")
    assert wire.writes == [b"one", b"two"]


def test_nothing_follows_the_end() -> None:
    """A comment that comes late would be read as the next response."""
    wire = Wire()
    writer = ChunkedWriter(wire, False, end=b"END")
    writer.write_last(b"bye")
    writer.write(b": keep-alive")
    assert len(wire.writes) == 1


def test_nothing_is_written_to_a_transport_that_closes() -> None:
    wire = Wire()
    writer = ChunkedWriter(wire, False, head=b"HEAD ")
    wire.closing = True
    writer.write(b"one")
    writer.write_last(b"two")
    assert wire.writes == []


def test_the_head_can_leave_before_the_first_piece() -> None:
    wire = Wire()
    writer = ChunkedWriter(wire, False, head=b"HEAD ", end=b"END")
    writer.flush()
    writer.flush()
    assert wire.writes == [b"HEAD "]
    writer.write(b"one")
    writer.write_last(b"")
    assert wire.writes[1:] == [b"3\r\none\r\n", b"END"], "once"


def test_an_empty_last_piece_is_no_chunk() -> None:
    """An empty chunk would end the response before its end."""
    wire = Wire()
    ChunkedWriter(wire, False, head=b"HEAD ", end=b"END").write_last(b"")
    assert wire.writes == [b"HEAD END"]


def test_no_head_is_written_to_a_transport_that_closes() -> None:
    wire = Wire()
    writer = ChunkedWriter(wire, False, head=b"HEAD ")
    wire.closing = True
    writer.flush()
    assert wire.writes == []


def test_its_connection_says_whether_the_socket_takes_more() -> None:
    wire = Wire()
    writer = ChunkedWriter(wire, True)
    assert writer.is_full()
    writer.is_blocked = False
    assert not writer.is_full()
    writer.cut()
    assert wire.aborted
