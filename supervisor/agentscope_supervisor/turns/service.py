"""The turns of an instance: the commands of `ledger`, executed.

Turns are accepted, dispatched to a process, cancelled and completed here. Processes are known by number only,
through `Processes`, which `workers.controller` implements. The bytes of a run do not pass here: they go from
`workers.link` to the run, and from there to its readers.
"""

import asyncio
import logging
import math
from collections.abc import Iterable
from functools import partial
from typing import Final, Protocol

from agentscope_protocol.config.settings import Settings
from agentscope_protocol.wire.errors import Code, LocalProtocolError
from agentscope_protocol.wire.frames import REQUEST_ID, CancelReason, StreamKind
from agentscope_protocol.wire.log_lines import session_digest
from agentscope_supervisor.domain.errors import ErrorCode, Failure, refusal
from agentscope_supervisor.domain.request import TurnRequest
from agentscope_supervisor.domain.run import Run
from agentscope_supervisor.domain.turn import (
    Cancel,
    Command,
    Complete,
    Dispatch,
    Idle,
    Purpose,
    ReplaceProcess,
    Turn,
)
from agentscope_supervisor.runs.recorder import Recorder
from agentscope_supervisor.system.event_queue import Post
from agentscope_supervisor.system.sweeper import Sweeper
from agentscope_supervisor.telemetry.metrics import Metrics
from agentscope_supervisor.turns import routing
from agentscope_supervisor.turns.active_sessions import ActiveSessions
from agentscope_supervisor.turns.latencies import Latencies
from agentscope_supervisor.turns.ledger import Ledger, TurnLimits
from agentscope_supervisor.turns.quarantine import Quarantine
from agentscope_supervisor.turns.session_affinity import SessionAffinity

log = logging.getLogger(__name__)

# Read once: see `agentscope_protocol.wire.values`.
_CLIENT: Final = Purpose.CLIENT
_NOTIFY_IDLE: Final = Purpose.NOTIFY_IDLE
_FORGET: Final = Purpose.FORGET
_FORGET_KIND: Final = StreamKind.FORGET

MAINTENANCE: Final = refusal(ErrorCode.DRAINING, "the instance is in maintenance")
RETURN_WITHIN: Final = 10.0
"""Seconds after which a client that sent an Idempotency-Key and lost its connection counts as gone: a client
that sends a key intends to ask again, and then finds its turn still running."""

SWEEP_EVERY: Final = 0.5  # seconds between two checks for expired turns


class Processes(Protocol):
    """The processes that run turns, by number."""

    def dispatch(self, process: int, turn: Turn) -> None:
        """Send a turn to a process that is ready. Raises: LocalProtocolError if it cannot be sent."""

    def cancel(self, process: int, turn: Turn, reason: CancelReason) -> None:
        """Ask a process to end a turn."""

    def drained(self, process: int) -> None:
        """The last turn of this process has ended."""

    def replace(self, process: int) -> None:
        """A turn of this process ignores its cancellation."""

    def is_leaving(self, process: int) -> bool:
        """Whether the process was asked to end."""


class TurnService:
    """All open turns. `processes` must be set before the first turn arrives. `metrics`: None: disabled."""

    processes: Processes

    def __init__(
        self, settings: Settings, slots: int, post: Post, recorder: Recorder, metrics: Metrics | None
    ) -> None:
        self._on_busy = settings.sessions.on_busy
        self._outlives_clients: Final = settings.sessions.on_disconnect == "continue"
        self._post: Final = post
        self._recorder: Final = recorder
        self._metrics: Final = metrics
        self._loop: Final = asyncio.get_running_loop()
        self.affinity: Final = SessionAffinity(settings.sessions.idle_after)
        self.ledger: Final = Ledger(limits(settings), slots, routing.slot_of, affinity=self.affinity)
        self._quarantine: Final = Quarantine()
        self._blamed: Final[set[int]] = set()  # processes that crashed on a quarantined turn
        self._seen: Final = ActiveSessions()
        self._idle: Final[set[asyncio.Future[None]]] = set()  # callers of `idle` that wait
        self._leaving: Final[dict[int, asyncio.TimerHandle]] = {}  # by number of the turn
        self._sweeper: Final = Sweeper(self._loop, SWEEP_EVERY, self._sweep, post)
        self.latencies: Final = Latencies()
        self.maintenance = False  # no turn is accepted

    # -- clients ------------------------------------------------------------------------------

    def submit(self, request: TurnRequest, run: Run) -> Turn | Failure:
        """Accept a turn, whose run then ends exactly once; or return the reason for the refusal.
        StreamKind.FORGET: a deletion."""
        if self.maintenance:
            return MAINTENANCE
        purpose = _FORGET if request.kind is _FORGET_KIND else _CLIENT
        now = self._loop.time()
        if len(self._quarantine) and purpose is _CLIENT:
            refused = self._quarantine.refusal(request.session_id, request.body, now)
            if refused is not None:
                return refused
        turn, commands = self.ledger.accept(request, run, request.on_busy or self._on_busy, now, purpose)
        if isinstance(turn, Turn):
            if purpose is _CLIENT:
                self._recorder.begin(run)
                if log.isEnabledFor(logging.DEBUG):
                    self._note("turn is accepted", turn, slot=turn.slot)
            self._post(lambda: self.carry_out(commands))
            self._sweeper.soon()
        return turn

    def turn_of(self, run: Run) -> Turn | None:
        """The turn of a run; None: it has ended."""
        return self.ledger.turn_of(run)

    def ahead(self, turn: Turn) -> int:
        """How many turns of its session come before a waiting turn."""
        return self.ledger.ahead(turn)

    def leave(self, turn: Turn) -> None:
        """A client of this turn has left."""
        if turn.is_open and not self._outlives_clients and not turn.request.detached:
            if turn.request.key is None:
                self._post(partial(self._left, turn))
            else:
                self._forget_leaving(turn)  # a client came back, and leaves again
                left = partial(self._left, turn)
                self._leaving[turn.number] = self._loop.call_later(RETURN_WITHIN, self._post, left)

    def interrupt(self, *, session_id: str | None, run_id: str | None) -> int:
        """End the turns of a session, or one run. Returns the number of turns that it ends."""
        count, commands = self.ledger.interrupt(self._loop.time(), session_id=session_id, run_id=run_id)
        self._post(lambda: self.carry_out(commands))
        return count

    def active_sessions(self) -> int:
        """The number of sessions that have a turn, or had one in the last 5 minutes."""
        return self._seen.active(self.ledger.active_sessions(), self._loop.time())

    def maintain(self, on: bool) -> None:
        """Refuse new turns and report so to readiness checks, or accept them again."""
        if on is not self.maintenance:
            log.info("maintenance begins" if on else "maintenance ends", extra={"turns": len(self.ledger)})
        self.maintenance = on

    async def idle(self) -> None:
        """Wait until no turn is open."""
        if self.ledger.open:
            waiter = self._loop.create_future()
            self._idle.add(waiter)
            try:
                await waiter
            finally:
                self._idle.discard(waiter)

    # -- processes ------------------------------------------------------------------------------

    def joined(self, process: int) -> None:
        """A process is ready, and its App wants to be notified of sessions that leave it."""
        self.affinity.joined(process)

    def departs(self, process: int) -> None:
        """A process gets no new turns, and ends as soon as it `is_done`."""
        self.affinity.leave(process, self._loop.time())
        if self.affinity.stays(process):
            self._post(self._notify_idle)

    def gone(self, process: int) -> None:
        """A process has ended."""
        self.affinity.gone(process)

    def is_done(self, process: int) -> bool:
        """Whether a process that is leaving has ended its turns and has been notified of its sessions."""
        return not self.ledger.on_process(process) and not self.affinity.stays(process)

    def assign(self, slot: int, process: int | None) -> None:
        """Dispatch the turns of this slot to `process` from now on; None: they wait."""
        self.carry_out(self.ledger.assign(slot, process, self._loop.time()))

    def unassign(self, slot: int, process: int) -> None:
        """Dispatch no more turns to `process`, if it is the one that serves the slot."""
        if self.ledger.assigned(slot) == process:
            self.assign(slot, None)

    def resize(self, slots: int) -> None:
        """Distribute sessions over this number of slots from now on."""
        self.carry_out(self.ledger.resize(slots, self._loop.time()))

    def ended(self, turn: Turn, json_body: bytes) -> None:
        """The App completed the turn."""
        if turn.is_open:
            turn.run.json_body = json_body
            if turn.purpose is _CLIENT:
                self._survived(turn.request)
        self.carry_out(self.ledger.ended(turn))

    def failed(self, turn: Turn, code: Code, message: str) -> None:
        """The worker failed the turn, or was lost with it."""
        harmless, crashes = False, turn.crashes
        if turn.is_open and turn.process is not None:
            if code is Code.UNSENT:
                if not crashes:  # after a crash, the App saw the turn in an earlier attempt
                    turn.run.give_back()
            elif turn.purpose is not _CLIENT:
                pass  # the quarantine counts clients' turns only
            elif code is Code.LINK_LOST:
                harmless = not self._lost(turn.process, turn.request) and not turn.run.events
            else:
                self._survived(turn.request)
        commands = self.ledger.failed(turn, code, message, harmless=harmless)
        if turn.crashes > crashes:
            log.warning(
                "worker died before the turn's first event; it runs again",
                extra={"slot": turn.slot, **_about(turn)},
            )
        self.carry_out(commands)

    def cut(self, process: int) -> None:
        """Cancel the turns of this process: its drain timeout is over."""
        self.carry_out(self.ledger.cut(process, self._loop.time()))

    def is_blamed(self, process: int) -> bool:
        """Whether a process that has ended crashed on a quarantined turn. The caller may ask only once."""
        blamed = process in self._blamed
        self._blamed.discard(process)
        return blamed

    def take_over(self, settings: Settings) -> None:
        """Apply these settings from now on, also to turns that are open already."""
        self._on_busy, self.ledger.limits = settings.sessions.on_busy, limits(settings)
        self.affinity.idle_after = settings.sessions.idle_after

    # -- the end ----------------------------------------------------------------------------------

    def drain(self) -> None:
        """The instance stops: running turns may finish, waiting turns end."""
        self.carry_out(self.ledger.drain())
        self._let_go()

    def close(self) -> None:
        """End every open turn: no process is left, and none will start."""
        self.carry_out(self.ledger.close())

    # -- commands of the ledger -------------------------------------------------------------------

    def carry_out(self, commands: Iterable[Command]) -> None:
        """Execute commands of the ledger, in order."""
        for command in commands:
            match command:
                case Dispatch():
                    self._dispatch(command.process, command.turn)
                case Complete():
                    self._complete(command.turn, command.failure)
                case Idle(process):
                    if self.is_done(process):
                        self.processes.drained(process)
                case Cancel(turn, process, reason):
                    self.processes.cancel(process, turn, reason)
                case ReplaceProcess(turn, process):
                    log.error(
                        "turn ignores its cancellation; its worker is replaced",
                        extra={"slot": turn.slot, **_about(turn)},
                    )
                    self.processes.replace(process)

    def _dispatch(self, process: int, turn: Turn) -> None:
        if turn.purpose is _NOTIFY_IDLE:
            self._sweeper.soon()
        run = turn.run
        try:
            self.processes.dispatch(process, turn)
            if turn.purpose is _CLIENT and run.worker is not None:
                self.affinity.used(turn.session_id, process, run.worker, self._loop.time())
            if log.isEnabledFor(logging.DEBUG):
                self._note("turn begins", turn, worker=run.worker)
        except LocalProtocolError as error:
            log.error("turn cannot be sent", extra={**_about(turn), "reason": str(error)})
            self._post(partial(self.failed, turn, Code.PROTOCOL, "the turn cannot be sent to a worker"))

    def _complete(self, turn: Turn, failure: Failure | None) -> None:
        now, run = self._loop.time(), turn.run
        if log.isEnabledFor(logging.DEBUG):
            outcome = failure.code.value if failure is not None else "OK"
            self._note("turn ends", turn, outcome=outcome, events=run.events)
        self._forget_leaving(turn)
        if turn.purpose is _CLIENT:
            self._seen.ended(turn.session_id, now)
            self.affinity.rested(turn.session_id, now)
            first = run.first_at
            self.latencies.note(now - run.started_at, first - run.started_at if first is not None else None)
            if self._metrics is not None:
                self._metrics.turn(run, failure, now)
        run.end(failure, now)
        if turn.purpose is _CLIENT:
            self._recorder.end(run)
        elif turn.purpose is _NOTIFY_IDLE:
            self._notified(run)
        elif failure is None:
            self.affinity.forget(turn.session_id)
        if self._idle and not self.ledger.open:
            for waiter in self._idle:
                if not waiter.done():
                    waiter.set_result(None)

    def _notified(self, run: Run) -> None:
        """The notification of a process has ended, with or without success."""
        if run.failure is not None:
            log.warning(
                "App.on_session_idle failed",
                extra={"worker": run.worker, "code": run.failure.code, "reason": run.failure.message},
            )
        self._post(self._notify_idle)

    def _notify_idle(self) -> None:
        self.carry_out(self.ledger.notify_idle(self._loop.time()))
        self._let_go()
        if self.affinity.waiting:
            self._sweeper.soon()

    def _let_go(self) -> None:
        """Let leaving processes end that are done with their notifications, or have no time left for them."""
        now = math.inf if self.ledger.draining else self._loop.time()
        for process, missed in self.affinity.departed(now):
            if missed and not self.ledger.draining:
                log.warning("no time left to call App.on_session_idle", extra={"sessions": missed})
            if self.is_done(process):
                self.processes.drained(process)

    def _left(self, turn: Turn) -> None:
        """A client of this turn is gone for good: cancel the turn, unless another client reads its run."""
        if turn.is_open and not turn.run.readers:
            self.carry_out(self.ledger.cancel(turn, CancelReason.CLIENT_GONE, self._loop.time()))

    def _forget_leaving(self, turn: Turn) -> None:
        timer = self._leaving.pop(turn.number, None)
        if timer is not None:
            timer.cancel()

    def _note(self, message: str, turn: Turn, **fields: object) -> None:
        """Log one step of a turn. The caller must check the log level first: to build these lines for every
        turn costs more than the turn itself."""
        log.debug(message, extra={**_about(turn), **fields})

    def _lost(self, process: int, request: TurnRequest) -> bool:
        """Count a crash against a turn. Returns whether its message or session is now quarantined."""
        kills = not self.processes.is_leaving(process) and self._quarantine.lost(
            request.session_id, request.body, self._loop.time()
        )
        if kills:
            self._blamed.add(process)
        return kills

    def _survived(self, request: TurnRequest) -> None:
        if len(self._quarantine):
            self._quarantine.survived(request.session_id, request.body)

    def _sweep(self) -> bool:
        """Find turns that have taken too long. Returns whether to look again."""
        self.carry_out(self.ledger.expire(self._loop.time()))
        self._notify_idle()
        return len(self.ledger) > 0


def _about(turn: Turn) -> dict[str, str]:
    """The fields that identify a turn in log lines."""
    return {
        "run": turn.run_id,
        "session": session_digest(turn.session_id),
        "request": turn.request.headers.get(REQUEST_ID, ""),
    }


def limits(settings: Settings) -> TurnLimits:
    """The limits of the ledger, from the settings in agentapp.yaml."""
    return TurnLimits(
        max_turns=settings.server.max_turns,
        max_inflight=settings.supervisor.max_inflight,
        max_queue=settings.sessions.max_queue,
        max_turns_per_principal=settings.server.max_turns_per_principal,
        request_timeout=settings.server.request_timeout,
        start_timeout=settings.supervisor.start_timeout,
        cancel_grace=settings.sessions.cancel_grace,
        retry_on_crash=settings.sessions.retry_on_crash == "before_first_event",
    )
