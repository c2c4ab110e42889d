"""The worker alone answers as the load expects it: streams, many turns on a connection, health too."""

import json
from pathlib import Path

from tests.benchmarks.candidates import CANDIDATES, SESSION
from tests.benchmarks.peers import Environments
from tests.harness.client import Connection


async def test_the_worker_alone_answers(tmp_path: Path) -> None:
    with CANDIDATES["worker-1"].start(tmp_path, Environments(tmp_path)) as running:
        async with Connection(running.port) as connection:
            for events in (1, 3):
                request = running.request({"events": events}).replace(SESSION.encode(), b"0000000001")
                await connection.send(request)
                answer = await connection.answer()
                assert answer.status == 200
                *pieces, done, rest = answer.body.split(b"\n\n")
                assert [json.loads(piece.partition(b"data: ")[2])["role"] for piece in pieces] == [
                    "assistant"
                ] * events
                assert (done.splitlines()[0], rest) == (b"event: done", b"")
            await connection.send(running.health())
            front = json.loads((await connection.answer()).body)["pid"]
            assert [process.pid for process in running.roles["front"]] == [front]
    assert not any(process.is_running() for role in running.roles.values() for process in role)
