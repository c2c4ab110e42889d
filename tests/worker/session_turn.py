"""A process that uses the session store like a worker, for the tests of claims.

    python -m tests.worker.session_turn json|redis WHERE MEMBER LEASE

`Peer` starts one and sends it commands, one per line: `begin`, `load`, `save VALUE`, `delete` or `end`, for a
turn of the session "s", and `client` for the release of the package redis. The response is a line of JSON
with the value or the error. LEASE: seconds of a claim in Redis.
"""

import asyncio
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from agentscope_worker.runtime.sessions import redis_store
from tests.worker.session_contract import Medium, OneTurn, make

ROOT: Final = Path(__file__).parents[2]


async def main(kind: str, where: str, member: str, lease: str) -> None:
    redis_store.LEASE = float(lease)
    store = make(kind, where, member=member)
    await store.open()
    while line := await asyncio.to_thread(sys.stdin.readline):
        word, _, value = line.strip().partition(" ")
        answer: Any = None
        try:
            match word:
                case "begin":
                    turn = OneTurn(store)
                case "load":
                    answer = await turn.load()
                case "save":
                    await turn.save(value)
                case "end":
                    turn.end()
                    await store._claims.close()
                case "delete":
                    answer = await store.delete_session_state("s")
                case "client":
                    answer = importlib.metadata.version("redis")
        except Exception as error:  # any error is reported to the test
            answer = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), flush=True)
    await store.close()


class Peer:
    """A session_turn process, controlled by a test. `libraries`: a folder whose packages are used instead of
    the installed ones."""

    def __init__(
        self, medium: Medium, member: str, lease: float = redis_store.LEASE, libraries: str | None = None
    ) -> None:
        command = [sys.executable, "-m", __name__, medium.kind, medium.where, member, str(lease)]
        self._process: Final = subprocess.Popen(
            command,
            cwd=ROOT,
            env=None if libraries is None else {**os.environ, "PYTHONPATH": libraries},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def do(self, line: str) -> Any:
        """Send one command; returns the response."""
        return await asyncio.to_thread(self._do, line)

    def _do(self, line: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
