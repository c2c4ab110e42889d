"""Saves one session over and over, for the tests that need another process or a death.

    python -m tests.worker.session_writer DIRECTORY SESSION SIZE

prints a line once it has saved for the first time. SIZE is the number of characters of the state;
each state holds one number throughout, so that a torn or mixed one is told.
"""

import asyncio
import sys
from pathlib import Path

from agentscope_worker.runtime.session_json import JsonSessions
from tests.worker.values import Value


async def main(directory: Path, session: str, size: int) -> None:
    sessions = JsonSessions(directory, 2)
    await sessions.open()
    number = 0
    while True:
        number += 1
        await sessions.save_session_state(session, value=Value([number] * size))
        if number == 1:
            print("saving", flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
