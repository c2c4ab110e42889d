"""A machine in memory, with a clock, processes and links, on which the real `daemon` runs.

`Machine.installed` replaces the clock of asyncio, `processes.launcher`, `workers.link`, `web.app`,
`processes.reaper`, the store, the signals and psutil. Everything else is the code of the product. The state
of a `Worker` changes at once; the supervisor learns about it later, when the test reports it. The machine
also asserts what the supervisor must never do, for example send a turn twice or kill a healthy process.
"""

import asyncio
import contextlib
import json
import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TypeVar
from unittest.mock import patch

import psutil

from agentscope_protocol.config.settings import Settings
from agentscope_protocol.wire.errors import Code, LocalProtocolError
from agentscope_protocol.wire.frames import CancelReason
from agentscope_supervisor import daemon as daemon_module
from agentscope_supervisor.daemon import Daemon
from agentscope_supervisor.domain.turn import Purpose, Turn
from agentscope_supervisor.processes.launcher import LaunchRequest
from agentscope_supervisor.project.config import ProjectError
from agentscope_supervisor.turns.session_affinity import FAREWELL_WITHIN
from agentscope_supervisor.workers import pool

T = TypeVar("T")

ROUNDING: Final = 0.001  # seconds; times are sums of floats

# Reasons of a blocked loop: the state that the kernel reports, the CPU share, and whether the thread still
# runs.
STATES: Final[Mapping[str, tuple[str, float, bool]]] = {
    "blocked": (psutil.STATUS_SLEEPING, 0.0, True),
    "stopped": (psutil.STATUS_STOPPED, 0.0, False),
    "starved": (psutil.STATUS_RUNNING, 0.0, False),
}


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose time advances when no event is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self._selector = self
        self.unhandled: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.unhandled.append(context))

    def time(self) -> float:
        return self.now

    def select(self, timeout: float | None) -> Sequence[object]:
        assert timeout is not None, "the loop waits for an event that cannot happen"
        self.now += timeout
        return ()

    def _process_events(self, events: Sequence[object]) -> None:
        pass

    def do(self, event: Callable[[], T]) -> T:
        """Run `event` and the callbacks that follow at once."""

        async def happen() -> T:
            result = event()
            for _ in range(3):  # a task that the event starts, and the callbacks of the task
                await asyncio.sleep(0)
            return result

        return self.run_until_complete(happen())

    def pass_time(self, seconds: float) -> None:
        self.run_until_complete(asyncio.sleep(seconds))


class Worker:
    """One process with its end of the link. `turns` are the open turns that were sent to it."""

    def __init__(self, machine: "Machine", on_exit: Callable[[int], None]) -> None:
        self._machine: Final = machine
        self._on_exit: Final = on_exit
        self.link: Link
        self.sessions: set[str] = set()  # in its memory: the App was not notified that they leave
        self.turns: dict[
            Turn, bool
        ] = {}  # whether the App has begun the turn; otherwise it is still in the socket
        self.cancelled: set[Turn] = set()
        self.is_ready = False
        self.terminated_at: float | None = None
        self.stuck: str | None = None  # a key of STATES
        self.stuck_at = 0.0
        self.status: int | None = None  # exit status; the supervisor may not know it yet
        self.reported = False
        self.socket = None
        self.output = SimpleNamespace(last_lines=(), stacks=())
        self.page = self
        self.pid = len(machine.workers) + 1

    @property
    def alive(self) -> bool:
        return self.status is None

    @property
    def acts(self) -> bool:
        return self.alive and self.stuck is None

    # -- its page -----------------------------------------------------------------------------

    @property
    def loop(self) -> int:
        return int(4 * (self._machine.loop.now if self.acts else self.stuck_at))

    @property
    def thread(self) -> int:
        ticks = self.stuck is None or STATES[self.stuck][2]
        return int(4 * (self._machine.loop.now if self.alive and ticks else self.stuck_at))

    # -- spawn.Child: calls of the supervisor ---------------------------------------------------

    def terminate(self) -> None:
        if self.alive:
            self._machine.may_end(self)
            self.terminated_at = self._machine.loop.now

    def dump_stacks(self) -> None:
        pass

    def close(self) -> None:
        assert not self.alive, "the channels of a living process are closed"

    def kill(self) -> None:
        if self.alive:
            self._machine.may_kill(self)
            self.dies(-9)

    # -- actions of the worker ------------------------------------------------------------------

    def becomes_ready(self) -> None:
        self.is_ready = True
        self.link.listener.noticed(self.link.process, "ready", self._machine.ready)

    def reads(self) -> None:
        """The worker reads the turns in its socket."""
        for turn in self.turns:
            self.turns[turn] = True
            self._machine.begun.add(turn)

    def answers(self, turn: Turn, code: Code | None) -> None:
        """A turn ends; `code` is None if it succeeds."""
        del self.turns[turn]
        if code is None:
            self.link.listener.turn_ended(turn, b"[]")
        else:
            self._machine.failed(self, turn, code)
            self.link.listener.turn_failed(turn, code, "")

    def dies(self, status: int) -> None:
        """The process exits. The supervisor does not know it yet."""
        self.status, self.stuck_at = status, self._machine.loop.now

    def end_is_reported(self) -> None:
        if not self.reported:
            self.reported = True
            assert self.status is not None
            self._on_exit(self.status)


class Link:
    """`workers.link.WorkerLink` without a socket. Reports in the same order: first the loss, then each
    turn."""

    def __init__(self, process: int, label: str, greeting: object, page: Worker, listener: Any) -> None:
        self.process: Final = process
        self._label: Final = label
        self.slot: Final = int(label.split(".")[0])
        self.listener: Final = listener
        self.worker: Final = page
        self.closed = self.violated = False
        self.greeted = True  # each worker says hello as soon as it starts
        page.link = self
        page._machine.by_number[process] = page

    def check_incomplete_frame(self) -> None:
        pass

    async def connect(self, sock: object) -> None:
        pass

    def dispatch(self, turn: Turn) -> None:
        if self.closed:
            raise LocalProtocolError("the link is closed")
        self.worker._machine.may_dispatch(turn, self.worker)
        turn.run.take(self._label, lambda _: None, self.worker._machine.loop.now)
        self.worker.turns[turn] = False
        (self.worker.sessions.add if turn.purpose is Purpose.CLIENT else self.worker.sessions.discard)(
            turn.session_id
        )
        if self.worker.acts:
            self.worker.reads()

    def cancel(self, turn: Turn, reason: CancelReason) -> None:
        if turn in self.worker.turns:
            self.worker.cancelled.add(turn)

    def worker_ended(self) -> None:
        self.lose()

    def lose(self) -> None:
        """The link is closed, by either end."""
        if self.closed:
            return
        alive, turns = self.worker.alive, self.worker.turns
        self.closed, self.violated = True, alive
        self.listener.link_lost(self.process, "gone", len(turns))
        for turn, begun in list(turns.items()):
            code = Code.LINK_LOST if begun or alive else Code.UNSENT
            self.worker._machine.failed(self.worker, turn, code)
            if alive:
                self.worker._machine.begun.add(turn)
            self.listener.turn_failed(turn, code, "")
        if not alive:
            turns.clear()


class Door:
    """`web.app.FrontDoor` and `control.server.ControlServer` without clients."""

    def __init__(self, *_: object) -> None:
        pass

    async def listen(self, sock: object, *, is_shared: bool = False) -> None:
        pass

    def take_over(self, tokens: object) -> None:
        pass

    async def close(self) -> None:
        pass


class Launcher:
    """`processes.launcher.Launcher`. Processes start at once, or later as `Machine.starts` says."""

    def __init__(self, machine: "Machine") -> None:
        self._machine: Final = machine

    def start(self, request: LaunchRequest) -> None:
        assert not self._machine.asked_at, "started after the stop"
        self._machine.requests[request.process] = request
        if self._machine.starts == "at once":
            self._machine.start_process(request.process)

    def cancel(self, process: int) -> bool:
        if self._machine.starts == "under way":
            return False
        return self._machine.requests.pop(process, None) is not None

    def marks(self) -> dict[int, str]:
        return {}

    def stop(self) -> None:
        pass


class Reaper:
    """`processes.reaper.Reaper` without orphan processes."""

    def __init__(self, marks: object) -> None:
        pass

    def hurry(self) -> None:
        pass

    async def stop(self) -> None:
        pass


class Store:
    """`runs.store.Store` that stores nothing."""

    failure = ""

    def __init__(self, *_: object) -> None:
        pass

    def start(self) -> None:
        pass

    def put(self, *_: object, owed: bool = False) -> None:
        pass

    async def ask(self, _: object) -> None:
        return None

    async def close(self) -> None:
        pass


class Failures(logging.Handler):
    """Collects exceptions that the daemon has caught and logged, so that a test fails on them."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.found.append(record.exc_info[1])


class Machine:
    """One instance on its own machine. `settings` is the content of the configuration file; None: it is
    broken."""

    def __init__(self, settings: Settings) -> None:
        self.settings: Settings | None = settings
        self.supervisor: Final = settings.supervisor
        self.loop: Final = VirtualLoop()
        self.workers: list[Worker] = []  # all workers so far
        self.by_number: dict[int, Worker] = {}
        self.begun: set[Turn] = set()  # turns that an App may have begun
        self.requests: dict[int, LaunchRequest] = {}  # of processes that have not started yet
        self.starts = "at once"  # or "waiting", or "under way" if they cannot be cancelled any more
        self.forks_fail = False
        self.ready = ""  # detail of the `ready` notice of workers
        self.asked_at: list[float] = []  # times of the stop signals
        self.on_failed: Callable[[Worker, Turn, Code], None] = lambda *_: None
        self._handlers: Mapping[signal.Signals, Callable[[], None]] = {}
        self._failures: Final = Failures()
        self.daemon: Daemon
        self._run: asyncio.Task[int]

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        log = logging.getLogger("agentscope_supervisor")
        log.addHandler(self._failures)
        log.propagate = False
        with (
            patch.object(pool, "Launcher", lambda *_: Launcher(self)),
            patch.object(pool, "WorkerLink", Link),
            patch.object(pool.control_group, "oom_kills", lambda: 0),
            patch.object(pool.control_group, "memory_limit", lambda: None),
            patch.object(daemon_module, "Reaper", Reaper),
            patch.object(daemon_module, "Store", Store),
            patch.object(daemon_module, "FrontDoor", Door),
            patch.object(daemon_module, "ControlServer", Door),
            patch.object(daemon_module.signals, "install", self._install),
            patch.object(psutil, "Process", self._seen),
        ):
            yield
        log.propagate = True
        log.removeHandler(self._failures)
        self.loop.close()

    def _install(self, handlers: Mapping[signal.Signals, Callable[[], None]]) -> None:
        self._handlers = handlers

    def start_process(self, process: int) -> None:
        """A requested process starts, or fails to start."""
        request = self.requests.pop(process)
        if self.forks_fail:
            request.on_failed(OSError("cannot fork"))
            return
        self.workers.append(Worker(self, request.on_exit))
        request.on_started(self.workers[-1])  # type: ignore[arg-type]

    def _seen(self, pid: int) -> SimpleNamespace:
        worker = self.workers[pid - 1]
        if not worker.alive:
            raise psutil.NoSuchProcess(pid)
        status, cpu, _ = STATES[worker.stuck] if worker.stuck else (psutil.STATUS_SLEEPING, 0.0, True)
        times = SimpleNamespace(user=cpu * self.loop.now, system=0.0)
        return SimpleNamespace(cpu_times=lambda: times, status=lambda: status)

    # -- events ---------------------------------------------------------------------------------

    def boot(self) -> None:
        def run() -> None:
            project = SimpleNamespace(
                from_file={}, folder=Path("/nowhere"), watched=False, read_settings=self._read_settings
            )
            assert self.settings is not None
            self.daemon = Daemon(project, self.settings, Path())  # type: ignore[arg-type]
            self._run = self.loop.create_task(self.daemon.run(None, None, None))  # type: ignore[arg-type]

        self.do(run)

    def do(self, event: Callable[[], T]) -> T:
        """Run an event. Raises exceptions of the event, including those that the daemon only logs."""
        result = self.loop.do(event)
        self._check()
        return result

    def pass_time(self, seconds: float) -> None:
        self.loop.pass_time(seconds)
        self._check()

    def signal(self, number: signal.Signals) -> None:
        if number is signal.SIGTERM:
            self.asked_at.append(self.loop.now)
        self.do(self._handlers[number])

    @property
    def status(self) -> int | None:
        """Exit status of the instance; None while it runs."""
        return self._run.result() if self._run.done() else None

    def _check(self) -> None:
        for error in self._failures.found:
            raise error
        assert not self.loop.unhandled

    def _read_settings(self) -> Settings:
        if self.settings is None:
            raise ProjectError("the file is broken")
        return self.settings

    def failed(self, worker: Worker, turn: Turn, code: Code) -> None:
        self.on_failed(worker, turn, code)

    # -- what the supervisor may do ---------------------------------------------------------------

    def may_dispatch(self, turn: Turn, worker: Worker) -> None:
        """A turn is sent once, to a ready process, and never beside another turn of its session."""
        assert turn not in self.begun, "a turn that an App may have begun is sent again"
        process = self.daemon._pool[worker.link.process]
        if turn.purpose is Purpose.NOTIFY_IDLE:
            assert process.state.name in ("READY", "DRAINING")
            assert turn.session_id in worker.sessions, "notified twice, or about a session that it never had"
        else:
            assert process.state.name == "READY"
            for other in self.workers:
                lives = other.acts and not other.link.closed and other.terminated_at is None
                left = other is worker or turn.session_id not in other.sessions
                assert left or not lives or not self.ready, "a session moves without a notification"
        for other in self.workers:
            if other.alive:
                for running in other.turns:
                    assert running.session_id != turn.session_id, "two turns of a session overlap"

    def may_end(self, worker: Worker) -> None:
        """A process with open turns is terminated only if the instance stops and drain_timeout has passed."""
        waited_for = [turn for turn in worker.turns if turn.state.name in ("RUNNING", "CANCELLING")]
        if waited_for:
            assert self.asked_at, "a turn is cancelled without need"
            assert self.loop.now - self.asked_at[0] >= self.supervisor.drain_timeout - ROUNDING
        elif self.ready and not self.asked_at:
            drains_for = self.loop.now - self.daemon._pool[worker.link.process].since
            held = {turn.session_id for turn in worker.turns}
            assert worker.sessions <= held or drains_for >= FAREWELL_WITHIN - ROUNDING, (
                "the App was not notified"
            )

    def may_kill(self, worker: Worker) -> None:
        """A process is killed only if it is starting, blocked, without a link, too slow to exit, or at a
        second stop."""
        now, terminated = self.loop.now, worker.terminated_at
        assert (
            not worker.is_ready
            or worker.link.closed
            or len(self.asked_at) > 1
            or (worker.stuck in ("blocked", "stopped") and self.is_overdue(worker))
            or (terminated is not None and now - terminated >= self.supervisor.stop_timeout - ROUNDING)
        ), "a healthy process is killed"

    def is_overdue(self, worker: Worker) -> bool:
        return self.loop.now - worker.stuck_at >= self.supervisor.unresponsive_timeout - 0.5


def notice_detail(message: str) -> str:
    """Return the detail of a `failed` or `worn` notice with this message."""
    return json.dumps({"message": message})
