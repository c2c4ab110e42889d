"""Starting workers in the way that `launch_policy` decides: executes its commands and reports back.

It holds the zygote and the requests of workers that are not there yet. It knows nothing of what a worker
does; `workers.pool` gives the requests. Everything happens on the daemon's queue.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from agentscope_protocol.config import settings as settings_module
from agentscope_protocol.config.settings import Settings
from agentscope_supervisor.processes import launch_policy, spawn
from agentscope_supervisor.processes.output_pipe import OnLine
from agentscope_supervisor.processes.reaper import MARK
from agentscope_supervisor.processes.zygote import Zygote
from agentscope_supervisor.system import kernel
from agentscope_supervisor.system.log_setup import log_output

log = logging.getLogger(__name__)

ZYGOTE: Final = "zygote"
"""Its mark among those of children; no worker has it."""

WAITING: Final = 0.5
"""The share of `supervisor.start_timeout` for which the first worker waits for the zygote: its own start, of
which the same imports are most, must be possible in the whole of it."""


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """A worker to be started. `process`: our number of it; `snapshot`: its settings; `revision`: the first
    that had them and the packages that are installed; `mark`: its descendants are known by it.
    """

    process: int
    revision: int
    snapshot: bytes
    mark: str
    on_line: OnLine
    on_exit: kernel.OnExit
    on_started: Callable[[spawn.Child], None]
    failed: Callable[[OSError], None]


class Launcher:
    """Starts workers, each by itself or forked from the zygote."""

    def __init__(
        self,
        settings: Settings,
        command: Sequence[str],
        project: Path,
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        """`command`: of a worker, but for its arguments. `post` puts an event into the daemon's queue."""
        self._command: Final = command
        self._project: Final = project
        self._post: Final = post
        self._loop: Final = asyncio.get_running_loop()
        wish = settings.supervisor.preload
        self._loud: Final = logging.WARNING if wish is True else logging.INFO
        has_pidfds = kernel.on_exit is kernel.on_exit_pidfd
        can = wish is not False and has_pidfds and kernel.become_subreaper()
        if wish is not False and not can:
            self._tell_off("this system cannot make what another process forks a child of the supervisor")
        self._policy: Final = launch_policy.LaunchPolicy(can, settings.supervisor.start_timeout * WAITING)
        self._requests: Final[dict[int, LaunchRequest]] = {}  # by process, of those that are not there yet
        self._parts: list[str] = []
        self._zygote: Zygote | None = None
        self._ending: Final[set[Zygote]] = set()  # killed, but not gone yet
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False

    def start(self, request: LaunchRequest) -> None:
        """Start a worker; `on_started` or `failed` of the request is called, at once or later."""
        if self._policy.possible and request.revision > self._policy.revision:
            self._parts = parts_of(settings_module.restore(request.snapshot))
        self._requests[request.process] = request
        self._carry_out(self._policy.spawn(request.process, request.revision, self._loop.time()))

    def cancel(self, process: int) -> bool:
        """A worker is not wanted any more. Returns whether it was not begun, and never is."""
        waited = self._policy.cancel(process)
        if waited:
            del self._requests[process]
        return waited

    def marks(self) -> dict[int, str]:
        """The pid of the zygote, and of those that it replaces until they are gone, with their mark."""
        return {each.pid: ZYGOTE for each in (self._zygote, *self._ending) if each is not None}

    def stop(self) -> None:
        """Start no worker any more, and end the zygote."""
        self._stopping = True
        self._carry_out(self._policy.stop())

    # -- commands ---------------------------------------------------------------------------

    def _carry_out(self, commands: Iterable[launch_policy.Command]) -> None:
        for command in commands:
            match command:
                case launch_policy.StartZygote():
                    self._start_zygote()
                case launch_policy.KillZygote():
                    zygote, self._zygote = self._zygote, None
                    if zygote is not None:
                        self._ending.add(zygote)
                        zygote.kill()
                case launch_policy.Fork(process):
                    self._fork(self._requests[process])
                case launch_policy.Execute(process):
                    self._execute(self._requests.pop(process))
        self._arm()

    def _execute(self, request: LaunchRequest) -> None:
        try:
            child = spawn.spawn(self._command, self._project, request.mark, request.on_line, request.on_exit)
        except OSError as error:
            request.failed(error)
            return
        request.on_started(child)

    def _fork(self, request: LaunchRequest) -> None:
        assert self._zygote is not None, "workers are forked from a zygote that is ready"
        try:
            channels = spawn.WorkerChannels()
        except OSError as error:
            del self._requests[request.process]
            request.failed(error)
            return
        zygote = self._zygote

        def answered(told: int | str) -> None:
            del self._requests[request.process]
            try:
                if isinstance(told, str):
                    raise ChildProcessError(told)
                kernel.on_exit_of_adopted(told, request.on_exit)
            except OSError as error:
                channels.close()
                if self._stopping:  # which has ended the zygote
                    request.failed(error)
                    return
                log.warning("worker cannot be forked", extra={"reason": str(error)})
                zygote.kill()  # the next one may do better
                self._execute(request)
                return
            request.on_started(channels.child(told, request.on_line))

        zygote.fork(
            request.process,
            self._project,
            {MARK: request.mark},
            channels.theirs,
            lambda told: self._post(partial(answered, told)),
        )
        channels.close_theirs()

    # -- the zygote -------------------------------------------------------------------------

    def _start_zygote(self) -> None:
        began = self._loop.time()

        def ready() -> None:
            if zygote is self._zygote:
                seconds = round(self._loop.time() - began, 2)
                log.info("AgentScope is preloaded", extra={"pid": zygote.pid, "seconds": seconds})
                self._carry_out(self._policy.ready(self._loop.time()))

        def refused(reason: str) -> None:
            if zygote is self._zygote:
                self._tell_off(reason)
                self._carry_out(self._policy.refused())

        def ended(status: int) -> None:
            self._ending.discard(zygote)
            if zygote is self._zygote:
                self._zygote = None
                self._ended(status)

        try:
            self._zygote = zygote = Zygote(
                [*self._command, "--preload"],
                self._project,
                self._parts,
                partial(log_output, ZYGOTE),
                lambda: self._post(ready),
                lambda reason: self._post(partial(refused, reason)),
                lambda status: self._post(partial(ended, status)),
            )
        except OSError as error:
            log.warning("zygote cannot be started", extra={"reason": str(error)})
            self._post(partial(self._ended, None))

    def _ended(self, status: int | None) -> None:
        commands = self._policy.exited(self._loop.time(), random.random())
        due = self._policy.next_due
        if due is not None and status is not None:
            wait = round(due - self._loop.time(), 1)
            log.warning("zygote died; its workers go on", extra={"status": status, "next_in_seconds": wait})
        self._carry_out(commands)

    def _tell_off(self, reason: str) -> None:
        log.log(self._loud, "workers are not preloaded: %s", reason)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._policy.next_due
        if due is not None:
            self._timer = self._loop.call_at(due, self._post, self._tick)

    def _tick(self) -> None:
        self._carry_out(self._policy.tick(self._loop.time(), random.random()))


def parts_of(settings: Settings) -> list[str]:
    """What the settings use, in the words of the worker's zygote; what is unknown to it is skipped."""
    parts = {f"provider:{each.provider}" for each in settings.models.values()}
    if settings.mcp_servers:
        parts.add("mcp")
    if settings.session.backend == "redis":
        parts.add("redis")
    if settings.tracing is not None:
        parts.add("tracing")
    return sorted(parts)
