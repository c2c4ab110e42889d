"""Saves one session repeatedly, for tests that need another process or a killed one.

    python -m tests.worker.session_writer json|redis WHERE SESSION SIZE

prints a line after its first save. WHERE is a directory or a URL, SIZE the number of items of the state. All
items of a state are the same number, so that a torn or mixed state is detected.
"""

import asyncio
import sys

from tests.worker.session_contract import make
from tests.worker.values import Value


async def main(kind: str, where: str, session: str, size: int) -> None:
    sessions = make(kind, where)
    await sessions.open()
    number = 0
    while True:
        number += 1
        await sessions.save_session_state(session, value=Value([number] * size))
        if number == 1:
            print("saving", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
