"""Starts workers: carries out the commands of `launch_policy` and reports the results back to it.

Owns the zygote, and the requests for workers that have not started yet. It knows nothing about what a worker
does; `workers.pool` makes the requests. All events are handled on the event queue of the instance. `spawn`
and `zygote` start the processes.
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
from agentscope_supervisor.processes import launch_policy, spawn, worker_user
from agentscope_supervisor.processes.output_pipe import OnLine
from agentscope_supervisor.processes.reaper import MARK
from agentscope_supervisor.processes.zygote import Zygote
from agentscope_supervisor.system import kernel
from agentscope_supervisor.system.log_setup import log_output

log = logging.getLogger(__name__)

ZYGOTE: Final = "zygote"
"""Mark and label of the zygote; no worker has this mark."""

WAIT_SHARE: Final = 0.5
"""Share of `supervisor.start_timeout` for which the first worker waits for the zygote.

The worker's own start consists mostly of the same imports. It must still be possible within
`start_timeout`."""


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """A request to start a worker. Calls `on_started` or `on_failed` once, unless it is cancelled before."""

    process: int
    """Number of the process."""
    revision: int
    """First revision with the same settings and the same installed packages."""
    snapshot: bytes
    """Settings of the worker."""
    mark: str
    """Identifies the descendants of the worker."""
    on_line: OnLine
    on_exit: kernel.OnExit
    on_started: Callable[[spawn.Child], None]
    on_failed: Callable[[OSError], None]


class Launcher:
    """Starts workers, in new interpreters or as forks of the zygote."""

    def __init__(
        self,
        settings: Settings,
        command: Sequence[str],
        project: Path,
        post: Callable[[Callable[[], None]], None],
        zygote_fits: bool = True,
    ) -> None:
        """`command` starts a worker, without its arguments. `post` puts an event into the event queue.

        `zygote_fits`: whether there is memory for a zygote. It decides if `supervisor.preload` is `auto`.
        """
        self._command: Final = command
        self._project: Final = project
        umask = settings.supervisor.umask
        self._umask: Final = -1 if umask is None else int(umask, 8)
        self._user: Final = worker_user.of(settings)
        self._post: Final = post
        self._loop: Final = asyncio.get_running_loop()
        preload = settings.supervisor.preload
        self._level: Final = logging.WARNING if preload is True else logging.INFO
        has_pidfds = kernel.on_exit is kernel.on_exit_pidfd
        wanted = preload is True or (preload == "auto" and zygote_fits)
        possible = wanted and has_pidfds and kernel.become_subreaper()
        if wanted and not possible:
            self._log_no_preload("this system cannot reparent forked workers to the supervisor")
        elif preload == "auto" and not zygote_fits:
            self._log_no_preload("the memory limit is too small for one worker and a zygote")
        self._policy: Final = launch_policy.LaunchPolicy(
            possible, settings.supervisor.start_timeout * WAIT_SHARE
        )
        self._requests: Final[dict[int, LaunchRequest]] = {}  # by process; not started yet
        self._parts: list[str] = []
        self._zygote: Zygote | None = None
        self._ending: Final[set[Zygote]] = set()  # killed, not exited yet
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False

    def start(self, request: LaunchRequest) -> None:
        """Start a worker; `on_started` or `on_failed` of the request is called, at once or later."""
        if self._policy.possible and request.revision > self._policy.revision:
            self._parts = parts_of(settings_module.restore(request.snapshot))
        self._requests[request.process] = request
        self._carry_out(self._policy.spawn(request.process, request.revision, self._loop.time()))

    def cancel(self, process: int) -> bool:
        """Cancel the start of a worker. Returns whether it had not begun, and will now never start."""
        waited = self._policy.cancel(process)
        if waited:
            del self._requests[process]
        return waited

    def marks(self) -> dict[int, str]:
        """Return pid and mark of the zygote, and of replaced zygotes that have not exited yet."""
        return {each.pid: ZYGOTE for each in (self._zygote, *self._ending) if each is not None}

    def stop(self) -> None:
        """Kill the zygote. No worker is started afterwards."""
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
            child = spawn.spawn(
                self._command,
                self._project,
                self._umask,
                request.mark,
                request.on_line,
                request.on_exit,
                self._user,
            )
        except OSError as error:
            request.on_failed(error)
            return
        request.on_started(child)

    def _fork(self, request: LaunchRequest) -> None:
        assert self._zygote is not None, "workers are forked from a zygote that is ready"
        try:
            channels = spawn.WorkerChannels(self._user)
        except OSError as error:
            del self._requests[request.process]
            request.on_failed(error)
            return
        zygote = self._zygote

        def answered(answer: int | str) -> None:
            del self._requests[request.process]
            try:
                if isinstance(answer, str):
                    raise ChildProcessError(answer)
                kernel.on_exit_of_adopted(answer, request.on_exit)
            except OSError as error:
                channels.close()
                if self._stopping:  # `stop` has killed the zygote
                    request.on_failed(error)
                    return
                log.warning("worker cannot be forked", extra={"reason": str(error)})
                zygote.kill()  # the next zygote may work
                self._execute(request)
                return
            request.on_started(channels.child(answer, request.on_line))

        zygote.fork(
            request.process,
            self._project,
            {MARK: request.mark},
            channels.theirs,
            lambda answer: self._post(partial(answered, answer)),
        )
        channels.close_theirs()

    # -- the zygote -------------------------------------------------------------------------

    def _start_zygote(self) -> None:
        started_at = self._loop.time()

        def ready() -> None:
            if zygote is self._zygote:
                seconds = round(self._loop.time() - started_at, 2)
                log.info("AgentScope is preloaded", extra={"pid": zygote.pid, "seconds": seconds})
                self._carry_out(self._policy.ready(self._loop.time()))

        def refused(reason: str) -> None:
            if zygote is self._zygote:
                self._log_no_preload(reason)
                self._carry_out(self._policy.refused())

        def exited(status: int) -> None:
            self._ending.discard(zygote)
            if zygote is self._zygote:
                self._zygote = None
                self._exited(status)

        try:
            self._zygote = zygote = Zygote(
                [*self._command, "--preload"],
                self._project,
                self._umask,
                self._parts,
                partial(log_output, ZYGOTE),
                lambda: self._post(ready),
                lambda reason: self._post(partial(refused, reason)),
                lambda status: self._post(partial(exited, status)),
                self._user,
            )
        except OSError as error:
            log.warning("zygote cannot be started", extra={"reason": str(error)})
            self._post(partial(self._exited, None))

    def _exited(self, status: int | None) -> None:
        commands = self._policy.exited(self._loop.time(), random.random())
        due = self._policy.next_due
        if due is not None and status is not None:
            delay = round(due - self._loop.time(), 1)
            log.warning(
                "zygote died; its workers keep running", extra={"status": status, "next_in_seconds": delay}
            )
        self._carry_out(commands)

    def _log_no_preload(self, reason: str) -> None:
        log.log(self._level, "workers are not preloaded: %s", reason)

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
    """Return the features that the settings use, for the zygote to import. It ignores unknown ones."""
    parts = {f"provider:{each.provider}" for each in settings.models.values()}
    if settings.mcp_servers:
        parts.add("mcp")
    if settings.session.backend == "redis":
        parts.add("redis")
    if settings.tracing is not None:
        parts.add("tracing")
    return sorted(parts)
