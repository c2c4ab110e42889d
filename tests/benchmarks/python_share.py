"""The supervisor's own work for a short turn, on each way, and for an event: without sockets and workers.

The parts that a turn passes are real, from the request's bytes to those of the answer; what lies outside of
them is made of bytes here. The least of many small pieces of work is told, which other load on the machine
disturbs little, so that two versions can be compared where whole runs cannot.

    python -m tests.benchmarks.python_share [ROUNDS]
"""

import asyncio
import gc
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final, cast

import uvloop

from agentscope_protocol.config.settings import Settings
from agentscope_protocol.wire.codec import encode
from agentscope_protocol.wire.frames import Data, End, Hello
from agentscope_supervisor.domain.turn import Turn
from agentscope_supervisor.runs.recorder import Recorder
from agentscope_supervisor.system.event_queue import EventQueue
from agentscope_supervisor.turns.service import TurnService
from agentscope_supervisor.web.access.tokens import Tokens
from agentscope_supervisor.web.app import FrontDoor
from agentscope_supervisor.web.dialects import FORMATS
from agentscope_supervisor.workers.link import WorkerLink
from tests.harness.client import JSON, request, turn_body

TOGETHER: Final = 32  # connections whose requests come in one turn of the loop
EVENT: Final = b"id: 0123456789abcdef0123456789abcdef-17\ndata: " + b"x" * 250 + b"\n\n"
PROCESS: Final = 1


class Wire(asyncio.Transport):
    """A socket that takes everything and keeps it, and whose bytes come from `receive`."""

    def __init__(self) -> None:
        super().__init__()
        self.out: list[bytes] = []
        self.protocol: Any = None

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def receive(self, data: bytes) -> None:
        self.protocol.data_received(data)

    def write(self, data: Any) -> None:
        self.out.append(data)

    def writelines(self, list_of_data: Any) -> None:
        self.out.extend(list_of_data)

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_extra_info(self, name: Any, default: Any = None) -> Any:
        return default

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


class Instance:
    """What a turn passes, around one worker that is not there."""

    def __init__(self) -> None:
        settings, queue = Settings(), EventQueue()
        self._post: Final = queue.post
        store: Any = None  # of runs without a key it is not asked
        recorder = Recorder(settings.sessions, store, FORMATS)
        self.turns: Final = TurnService(settings, 1, queue.post, recorder, None)
        self.link: Final = WorkerLink(PROCESS, "0.1", {}, cast(Any, None), cast(Any, self))
        self.to_worker: Final = Wire()
        self.from_worker: Final = self.link._link
        self.from_worker.connection_made(self.to_worker)
        self.from_worker.data_received(encode(Hello(1, {})))
        self.turns.processes = cast(Any, self)
        self.turns.assign(0, PROCESS)
        nothing: Any = None  # of the table and the condition no turn asks
        tokens = Tokens(None, settings.auth)
        exchanges: Any = SimpleNamespace(hosted="")  # an App
        self.door: Final = FrontDoor(
            settings.server, tokens, self.turns, exchanges, nothing, nothing, recorder
        )
        self.streams = 0

    def dispatch(self, _number: int, turn: Turn) -> None:
        self.streams += 1
        self.link.dispatch(turn)

    def drained(self, number: int) -> None: ...

    def ended(self, turn: Turn, json_body: bytes) -> None:
        self._post(lambda: self.turns.ended(turn, json_body))

    def connect(self) -> Wire:
        wire = Wire()
        wire.set_protocol(self.door._fast.connect(False, lambda: None))
        wire.protocol.connection_made(wire)
        return wire


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn."""
    while not condition():  # noqa: ASYNC110 - the turns of the loop are what is measured
        await asyncio.sleep(0)


async def turns(instance: Instance, rounds: int, first: bytes = b"") -> list[float]:
    """Microseconds of each round, for one turn. `first`: what each connection asks before."""
    wires = [instance.connect() for _ in range(TOGETHER)]
    await asyncio.sleep(0)
    for wire in wires:
        if first:
            wire.receive(first)
            await until(lambda wire=wire: len(wire.out) > 0)  # type: ignore[misc]
    took = []
    for number in range(rounds):
        asked = [turn_body(f"s{number}-{place}", "x" * 150) for place in range(TOGETHER)]
        requests = [request("POST", "/invoke", body, JSON) for body in asked]
        before = instance.streams
        for wire in wires:
            wire.out.clear()
        instance.to_worker.out.clear()
        began = time.process_time()
        for wire, data in zip(wires, requests, strict=True):
            wire.receive(data)
        await until(lambda before=before: instance.streams == before + TOGETHER)  # type: ignore[misc]
        await until(lambda: bool(instance.to_worker.out))
        spent = time.process_time() - began
        streams = range(before + 1, instance.streams + 1)
        frames = b"".join(encode(Data(each, 1, EVENT)) + encode(End(each)) for each in streams)
        began = time.process_time()
        instance.from_worker.data_received(frames)
        await until(lambda: all(wire.out for wire in wires))
        await until(lambda: not len(instance.turns.ledger))
        took.append((spent + time.process_time() - began) / TOGETHER * 1e6)
    return took


async def events(instance: Instance, rounds: int) -> list[float]:
    """Microseconds of each round, for one event of an open stream; one of each in a read of the link."""
    wires = [instance.connect() for _ in range(TOGETHER)]
    await asyncio.sleep(0)
    before = instance.streams
    for place, wire in enumerate(wires):
        wire.receive(request("POST", "/invoke", turn_body(f"open-{place}", "x"), JSON))
    await until(lambda: instance.streams == before + TOGETHER)
    frames = b"".join(encode(Data(each, 1, EVENT)) for each in range(before + 1, instance.streams + 1))
    instance.from_worker.data_received(frames)
    await until(lambda: all(wire.out for wire in wires))
    took = []
    for _ in range(rounds):
        began = time.process_time()
        instance.from_worker.data_received(frames)
        took.append((time.process_time() - began) / TOGETHER * 1e6)
    return took


async def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    instance = Instance()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # as `launch` has it
    found = {
        "short turn, direct way": await turns(instance, rounds),
        "short turn, plain way": await turns(instance, rounds, request("GET", "/liveness")),
        "event of an open stream": await events(instance, rounds),
    }
    for what, took in found.items():
        took.sort()
        print(f"{what:26} least {took[0]:6.2f} µs   first quartile {took[len(took) // 4]:6.2f} µs")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
