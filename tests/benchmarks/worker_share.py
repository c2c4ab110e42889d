"""The worker's own work for a turn and for a message, without a socket and a supervisor.

The parts that a turn passes are real, from the Open frame to the bytes for the link, with AgentScope and the
App of the benchmarks; what lies outside of them is made of bytes here. Beside each stands the least that any
server pays for the same messages: the App's generator, AgentScope's own JSON, one write for each. Times are
of the CPU, the least of many pieces of work, as in `python_share`.

    python -m tests.benchmarks.worker_share [ROUNDS]
"""

import asyncio
import gc
import json
import mmap
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

import uvloop

from agentscope_protocol.wire.codec import FrameReader, encode
from agentscope_protocol.wire.frames import Credit, Data, End, Fail, Hello, Open, StreamKind
from agentscope_protocol.wire.link import Link
from agentscope_protocol.wire.page import LifePage
from agentscope_protocol.wire.responder import Responder
from agentscope_worker import host
from agentscope_worker.dialects import native
from agentscope_worker.runtime import SessionContext
from agentscope_worker.runtime.compat.majors import check_installation
from agentscope_worker.serve import Server
from agentscope_worker.sessions import Sessions
from agentscope_worker.watchdog import LifeSigns
from tests.benchmarks.apps.turns import turn
from tests.benchmarks.python_share import Wire

TOGETHER: Final = 100  # streams at once
RUN: Final = "0" * 32

Script = Mapping[str, Any]

CASES: Final[Mapping[str, Script]] = {
    "short turn": {"events": 1},
    "message of a burst": {"events": 200},
    "message of a tick": {"events": 200, "pause": 0},
    "message of a paced stream": {"events": 50, "pause": 0.004},
    "message of a burst, real": {"events": 200, "form": "real"},
}


class Worker:
    """A worker's server on a link whose other end is this program."""

    def __init__(self) -> None:
        self.wire: Final = Wire()
        self.link: Final[Link[Responder]] = Link(Responder({}), self._on_event, lambda *_: None)
        self.link.connection_made(self.wire)
        app: Any = _App()
        life = LifeSigns(LifePage(mmap.mmap(-1, mmap.PAGESIZE)))
        self._server: Final = Server(app, self.link, life, Sessions(app, cast(Any, None), cast(Any, None)))
        self._stream = 0
        self.link.data_received(encode(Hello(1, {})))

    def _on_event(self, event: Any) -> None:
        self._server.on_event(event)

    async def turns(self, body: bytes) -> float:
        """Run TOGETHER turns to their ends; returns the seconds of CPU that this end of the link took."""
        reader, ended, aside = FrameReader(), 0, 0.0
        frames = []
        for place in range(TOGETHER):
            self._stream += 1
            frames.append(encode(Open(self._stream, StreamKind.EVENTS, f"s{place}", RUN, body, {})))
        self.link.data_received(b"".join(frames))
        while ended < TOGETHER:
            await asyncio.sleep(0.001)
            began = time.process_time()
            data, back = b"".join(self.wire.out), []
            self.wire.out.clear()
            for frame in reader.feed(data):
                if isinstance(frame, Data):
                    back.append(encode(Credit(frame.stream, len(frame.payload))))
                if isinstance(frame, Fail):
                    raise RuntimeError(frame.message)
                ended += isinstance(frame, End)
            aside += time.process_time() - began
            self.link.data_received(b"".join(back))
        return aside


class _App:
    def __call__(self, msg: Any, _: SessionContext) -> Any:
        return turn(msg)

    on_session_idle = None


class Plain:
    """The same turns with nothing around them."""

    def __init__(self) -> None:
        self._wire: Final = Wire()

    async def turns(self, body: bytes) -> float:
        await asyncio.gather(*(self._turn(body) for _ in range(TOGETHER)))
        self._wire.out.clear()
        return 0.0

    async def _turn(self, body: bytes) -> None:
        msg = native.read_message(json.loads(body)["message"])
        async for each in turn(msg):
            self._wire.write(b"data: %b\n\n" % each.model_dump_json().encode())


async def least(turns: Callable[[bytes], Awaitable[float]], script: Script, rounds: int) -> float:
    """Microseconds for a message."""
    block = {"type": "text", "text": json.dumps(script)}
    message = {"name": "user", "role": "user", "content": [block], "metadata": {}}
    body = json.dumps({"message": message}).encode()
    took = []
    for _ in range(rounds):
        began = time.process_time()
        aside = await turns(body)
        took.append(time.process_time() - began - aside)
    return min(took) / TOGETHER / script["events"] * 1e6


async def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    check_installation(frozenset())
    plain = Plain()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # as `agentscope_worker.main` has it
    # First, as nobody else has AgentScope adapted.
    theirs = {what: await least(plain.turns, script, rounds) for what, script in CASES.items()}
    host.seam().adapt("bypass")  # as a start does
    worker = Worker()
    for what, script in CASES.items():
        ours = await least(worker.turns, script, rounds)
        print(f"{what:28} {ours:7.2f} µs   with nothing around it {theirs[what]:7.2f} µs")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
