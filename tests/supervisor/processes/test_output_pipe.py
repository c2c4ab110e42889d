"""The two pipes of a worker: records and prints arrive whole and apart; a flood of prints drops no record."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from agentscope_protocol.wire.log_lines import LogLine, write
from agentscope_supervisor.processes.output_pipe import BURST, LINE_COST, READ, ProcessOutput

RECORD = LogLine("paid", "error", {"logger": "shop", "run": "r-1"})
ENCODED = f"{write(RECORD)}\n".encode()


class Worker:
    """The worker's ends of the pipes, and what the supervisor has read from them."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []
        printed, self.stdout = os.pipe()
        records, self.records = os.pipe()
        self.output = ProcessOutput(printed, self.lines.append, records)

    async def read(self) -> None:
        """Let the supervisor read what is in the pipes."""
        for _ in range(2 * BURST // READ):
            await asyncio.sleep(0)

    def end(self) -> None:
        os.close(self.stdout)
        os.close(self.records)
        self.output.close()


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    worker = Worker()
    yield worker
    worker.output.close()


async def test_a_print_never_tears_a_record(worker: Worker) -> None:
    os.write(worker.records, ENCODED[:20])
    os.write(worker.stdout, b"begun, ")
    await worker.read()
    os.write(worker.records, ENCODED[20:])
    os.write(worker.stdout, b"ended\n")
    await worker.read()
    assert sorted(worker.lines, key=str) == sorted([RECORD, LogLine("begun, ended")], key=str)
    worker.end()


async def test_a_print_is_never_taken_for_a_record(worker: Worker) -> None:
    os.write(worker.stdout, ENCODED[:1])
    await worker.read()
    os.write(worker.stdout, ENCODED[1:])
    worker.end()
    (line,) = worker.lines
    assert (line.level, line.about) == ("info", {})
    assert line.message.startswith('\\x1e{"level": "error"')
    assert worker.output.last_lines == [line.message]


async def test_a_flood_of_prints_drops_no_record(worker: Worker) -> None:
    flood = b"x\n" * (READ // 2)
    for _ in range(2 * BURST // LINE_COST // len(flood) + 2):
        os.write(worker.stdout, flood)
        await worker.read()
    os.write(worker.records, ENCODED)
    worker.end()
    assert RECORD in worker.lines
    assert any("lines of output dropped" in line.message for line in worker.lines)


async def test_the_last_lines_of_both_pipes_are_kept(worker: Worker) -> None:
    os.write(worker.records, ENCODED)
    os.write(worker.stdout, b"Traceback\n  no line feed yet")
    await worker.read()
    kept = ["ERROR shop: paid", "Traceback", "  no line feed yet"]
    assert sorted(worker.output.last_lines) == sorted(kept)
    worker.end()
    assert sorted(worker.output.last_lines) == sorted(kept)
    assert worker.lines[-1] == LogLine("  no line feed yet")


async def test_a_record_that_was_cut_by_a_crash_is_readable(worker: Worker) -> None:
    os.write(worker.records, ENCODED[:-5])
    worker.end()
    (line,) = worker.lines
    assert line.message.startswith('\\x1e{"level": "error", "message": "paid"')


async def test_stack_dumps_are_kept_apart(worker: Worker) -> None:
    os.write(worker.stdout, b"Current thread 0x01 (most recent call first):\n" + b"other\n")
    worker.end()
    assert list(worker.output.stacks) == ["Current thread 0x01 (most recent call first):"]
