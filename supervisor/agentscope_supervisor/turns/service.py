"""The turns of an instance: what `ledger` decides of them, carried out.

From here a turn is accepted, handed to a process, cancelled and settled; its answer is kept in its run on the
way. It knows processes by number only, through `Hands`, which `workers.controller` provides. The bytes of
answers do not come this way: they go from `workers.link` to `runs.client_stream` directly.
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
from agentscope_supervisor.runs.client_stream import Answer
from agentscope_supervisor.runs.recorder import Recorder
from agentscope_supervisor.system.event_queue import Post
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
_TELL: Final = Purpose.TELL
_FORGET: Final = Purpose.FORGET
_FORGET_FORM: Final = StreamKind.FORGET

MAINTENANCE: Final = refusal(ErrorCode.DRAINING, "the instance is in maintenance")
RETURN_WITHIN: Final = 10.0
"""Seconds after which a client that sent an Idempotency-Key and lost its connection is taken to have left:
who sends a key means to ask again, and finds its turn still running."""

SWEEP_EVERY: Final = 0.5  # seconds between two looks for turns that have taken too long


class Hands(Protocol):
    """The processes that run turns, by number."""

    def dispatch(self, number: int, turn: Turn, invocation: TurnRequest, answer: Answer) -> None:
        """Give a turn to a process that is ready. Raises: LocalProtocolError if it cannot be sent."""

    def cancel(self, number: int, turn: Turn, reason: CancelReason) -> None:
        """Ask a process to end a turn."""

    def drained(self, number: int) -> None:
        """The last turn of this process has ended."""

    def replace(self, number: int) -> None:
        """A turn of this process ignores its cancellation."""

    def is_leaving(self, number: int) -> bool:
        """Whether the process was asked to end."""


class TurnService:
    """All open turns. `hands` is to be set before the first one comes; `metrics`: None, off."""

    hands: Hands

    def __init__(
        self, settings: Settings, slots: int, post: Post, recorder: Recorder, metrics: Metrics | None
    ) -> None:
        self._on_busy = settings.sessions.on_busy
        self._outlives_clients: Final = settings.sessions.on_disconnect == "continue"
        self._post: Final = post
        self._recorder: Final = recorder
        self._metrics: Final = metrics
        self._loop: Final = asyncio.get_running_loop()
        self.residents: Final = SessionAffinity(settings.sessions.idle_after)
        self.ledger: Final = Ledger(limits(settings), slots, routing.slot_of, residents=self.residents)
        self.open: Final[dict[int, tuple[TurnRequest, Answer]]] = {}  # by number of the turn
        self._poison: Final = Quarantine()
        self._blamed: Final[set[int]] = set()  # turns that keep killing were lost with these processes
        self._seen: Final = ActiveSessions()
        self._idle: Final[set[asyncio.Future[None]]] = set()  # who waits until no turn is open
        self._leaving: Final[dict[int, asyncio.TimerHandle]] = {}  # by number of the turn
        self._sweeping = False
        self.latencies: Final = Latencies()
        self.maintenance = False  # no turn is accepted

    # -- what clients do ----------------------------------------------------------------------

    def submit(self, request: TurnRequest, answer: Answer) -> Turn | Failure:
        """Accept a turn, whose answer will be settled once; or say why not. StreamKind.FORGET: a deletion."""
        if self.maintenance:
            return MAINTENANCE
        purpose = _FORGET if request.form is _FORGET_FORM else _CLIENT
        if len(self._poison) and purpose is _CLIENT:
            refused = self._poison.refusal(request.session_id, request.body, self._loop.time())
            if refused is not None:
                return refused
        turn, commands = self.ledger.accept(
            answer.run_id,
            request.session_id,
            len(request.body),
            request.principal,
            request.on_busy or self._on_busy,
            self._loop.time(),
            purpose,
        )
        if isinstance(turn, Turn):
            self.open[turn.number] = request, answer
            if purpose is _CLIENT:
                self._recorder.begin(request, turn, answer)
                if log.isEnabledFor(logging.DEBUG):
                    self._note("turn is accepted", turn, slot=turn.slot)
            self._post(lambda: self.carry_out(commands))
            self._sweep_soon()
        return turn

    def leave(self, turn: Turn) -> None:
        """The client of this turn has gone."""
        entry = self.open.get(turn.number)
        if entry is not None and not self._outlives_clients:
            if entry[0].key is None:
                self._post(partial(self._left, turn))
            else:
                self._forget_leaving(turn)  # it came back, and goes again
                left = partial(self._left, turn)
                self._leaving[turn.number] = self._loop.call_later(RETURN_WITHIN, self._post, left)

    def interrupt(self, *, session_id: str | None, run_id: str | None) -> int:
        """End the turns of a session, or one run; returns how many."""
        count, commands = self.ledger.interrupt(self._loop.time(), session_id=session_id, run_id=run_id)
        self._post(lambda: self.carry_out(commands))
        return count

    def active_sessions(self) -> int:
        """Sessions that have a turn, or had one in the last five minutes."""
        open_now = (request.session_id for request, _ in self.open.values() if _is_of_client(request))
        return self._seen.active(open_now, self._loop.time())

    async def idle(self) -> None:
        """Wait until no turn is open."""
        if self.open:
            waiter = self._loop.create_future()
            self._idle.add(waiter)
            try:
                await waiter
            finally:
                self._idle.discard(waiter)

    # -- what processes do ----------------------------------------------------------------------

    def joined(self, process: int) -> None:
        """A process is ready that wants to be told of the sessions that leave it."""
        self.residents.joined(process)

    def departs(self, process: int) -> None:
        """A process gets no new turn, and ends when it `is_done`."""
        self.residents.leave(process, self._loop.time())
        if self.residents.stays(process):
            self._post(self._tell)

    def gone(self, process: int) -> None:
        """A process can be given and told nothing any more."""
        self.residents.gone(process)

    def is_done(self, process: int) -> bool:
        """Whether a process that is leaving has ended its turns, and been told of its sessions."""
        return not self.ledger.on_process(process) and not self.residents.stays(process)

    def assign(self, slot: int, process: int | None) -> None:
        """TurnService of this slot go to `process` from now on; None: they wait."""
        self.carry_out(self.ledger.assign(slot, process, self._loop.time()))

    def unassign(self, slot: int, process: int) -> None:
        """No more turns go to `process`, if it is the one that gets those of the slot."""
        if self.ledger.assigned(slot) == process:
            self.assign(slot, None)

    def resize(self, slots: int) -> None:
        """Sessions are shared out over so many slots."""
        self.carry_out(self.ledger.resize(slots, self._loop.time()))

    def ended(self, turn: Turn, whole: bytes) -> None:
        """The App answered to the end."""
        entry = self.open.get(turn.number)
        if entry is not None:
            entry[1].whole = whole
            if turn.purpose is _CLIENT:
                self._survived(entry[0])
        self.carry_out(self.ledger.ended(turn))

    def failed(self, turn: Turn, code: Code, message: str) -> None:
        """The worker failed the turn, or was lost with it."""
        entry = self.open.get(turn.number)
        harmless, crashes = False, turn.crashes
        if entry is not None and turn.process is not None:
            request, answer = entry
            if code is Code.UNSENT:
                if not crashes:  # else the App has seen it, though not this time
                    answer.give_back()
            elif turn.purpose is not _CLIENT:
                pass  # it says nothing of a client's turn
            elif code is Code.LINK_LOST:
                harmless = not self._lost(turn.process, request) and not answer.events
            else:
                self._survived(request)
        commands = self.ledger.failed(turn, code, message, harmless=harmless)
        if turn.crashes > crashes:
            log.warning(
                "worker died before the turn's first event; it runs again",
                extra={"slot": turn.slot, **self._about(turn)},
            )
        self.carry_out(commands)

    def cut(self, process: int) -> None:
        """There is no time left for the turns of this process."""
        self.carry_out(self.ledger.cut(process, self._loop.time()))

    def is_blamed(self, process: int) -> bool:
        """A process has ended: whether turns that keep killing were lost with it. Asked once."""
        blamed = process in self._blamed
        self._blamed.discard(process)
        return blamed

    def take_over(self, settings: Settings) -> None:
        """These settings hold from now on, for turns that are open too."""
        self._on_busy, self.ledger.limits = settings.sessions.on_busy, limits(settings)
        self.residents.idle_after = settings.sessions.idle_after

    # -- the end ----------------------------------------------------------------------------------

    def drain(self) -> None:
        """The instance stops: what runs may finish, what waits will not begin."""
        self.carry_out(self.ledger.drain())
        self._let_go()

    def close(self) -> None:
        """No process is left, and none will come."""
        self.carry_out(self.ledger.close())

    # -- carrying out -----------------------------------------------------------------------------

    def carry_out(self, commands: Iterable[Command]) -> None:
        for command in commands:
            match command:
                case Dispatch():
                    self._hand(command.process, command.turn)
                case Complete():
                    self._settle(command.turn, command.failure)
                case Idle(number):
                    if self.is_done(number):
                        self.hands.drained(number)
                case Cancel(turn, number, reason):
                    self.hands.cancel(number, turn, reason)
                case ReplaceProcess(turn, number):
                    log.error(
                        "turn ignores its cancellation; its worker is replaced",
                        extra={"slot": turn.slot, **self._about(turn)},
                    )
                    self.hands.replace(number)

    def _hand(self, number: int, turn: Turn) -> None:
        now = self._loop.time()
        if turn.purpose is _TELL:
            request = TurnRequest(turn.session_id, StreamKind.IDLE, None, b"", turn.principal, {})
            self.open[turn.number] = request, Answer(turn.run_id, StreamKind.IDLE, now)
            self._sweep_soon()
        request, answer = self.open[turn.number]
        try:
            self.hands.dispatch(number, turn, request, answer)
            if turn.purpose is _CLIENT and answer.worker is not None:
                self.residents.used(turn.session_id, number, answer.worker, now)
            if log.isEnabledFor(logging.DEBUG):
                self._note("turn begins", turn, worker=answer.worker)
        except LocalProtocolError as error:
            log.error("turn cannot be sent", extra={**self._about(turn), "reason": str(error)})
            self._post(partial(self.failed, turn, Code.PROTOCOL, "the turn cannot be sent to a worker"))

    def _settle(self, turn: Turn, failure: Failure | None) -> None:
        now = self._loop.time()
        if log.isEnabledFor(logging.DEBUG):
            outcome = failure.code.value if failure is not None else "OK"
            self._note("turn ends", turn, outcome=outcome, events=self.open[turn.number][1].events)
        _, answer = self.open.pop(turn.number)
        self._forget_leaving(turn)
        if turn.purpose is _CLIENT:
            self._seen.ended(turn.session_id, now)
            self.residents.rested(turn.session_id, now)
            first = answer.first_at
            self.latencies.note(
                now - answer.started_at, first - answer.started_at if first is not None else None
            )
            if self._metrics is not None:
                self._metrics.turn(answer, failure, now)
        answer.settle(failure, now)
        if turn.purpose is _CLIENT:
            self._recorder.end(answer, failure)
        elif turn.purpose is _TELL:
            self._told(answer, failure)
        elif failure is None:
            self.residents.forget(turn.session_id)
        if not self.open:
            for waiter in self._idle:
                if not waiter.done():
                    waiter.set_result(None)

    def _told(self, answer: Answer, failure: Failure | None) -> None:
        """A process was told of a session that leaves it, or could not be."""
        if failure is not None:
            log.warning(
                "App.on_session_idle did not end well",
                extra={"worker": answer.worker, "code": failure.code, "reason": failure.message},
            )
        self._post(self._tell)

    def _tell(self) -> None:
        self.carry_out(self.ledger.tell(self._loop.time()))
        self._let_go()
        if self.residents.waiting:
            self._sweep_soon()

    def _let_go(self) -> None:
        """Processes that were told of all their sessions may end, and those whose time for it is over."""
        now = math.inf if self.ledger.draining else self._loop.time()
        for process, untold in self.residents.departed(now):
            if untold and not self.ledger.draining:
                log.warning("there was no time to call App.on_session_idle", extra={"sessions": untold})
            if self.is_done(process):
                self.hands.drained(process)

    def _left(self, turn: Turn) -> None:
        """The client of this turn is gone for good, unless somebody reads its answer."""
        entry = self.open.get(turn.number)
        if entry is not None and not entry[1].is_heard:
            self.carry_out(self.ledger.cancel(turn, CancelReason.CLIENT_GONE, self._loop.time()))

    def _forget_leaving(self, turn: Turn) -> None:
        timer = self._leaving.pop(turn.number, None)
        if timer is not None:
            timer.cancel()

    def _note(self, message: str, turn: Turn, **fields: object) -> None:
        """A line for those who look for one turn. A healthy hour has thousands of them, and they are off: to
        be asked before, as the rest of it costs more than a turn has."""
        log.debug(message, extra={**self._about(turn), **fields})

    def _about(self, turn: Turn) -> dict[str, str]:
        """How lines name a turn."""
        named = {"run": turn.run_id, "session": session_digest(turn.session_id)}
        entry = self.open.get(turn.number)
        return named if entry is None else {**named, "request": entry[0].headers.get(REQUEST_ID, "")}

    def _lost(self, process: int, request: TurnRequest) -> bool:
        """Blame the turn for a death; returns whether it is known now to kill."""
        kills = not self.hands.is_leaving(process) and self._poison.lost(
            request.session_id, request.body, self._loop.time()
        )
        if kills:
            self._blamed.add(process)
        return kills

    def _survived(self, request: TurnRequest) -> None:
        if len(self._poison):
            self._poison.survived(request.session_id, request.body)

    def _sweep_soon(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_EVERY, self._post, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        self.carry_out(self.ledger.expire(self._loop.time()))
        self._tell()
        if len(self.ledger):
            self._sweep_soon()


def _is_of_client(request: TurnRequest) -> bool:
    return request.form in (StreamKind.EVENTS, StreamKind.WHOLE)


def limits(settings: Settings) -> TurnLimits:
    """The bounds of the ledger, from where agentapp.yaml has them."""
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
