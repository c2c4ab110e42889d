"""Entry point of a worker process: link, settings, App, turns, shutdown.

    argv: the supervisor's pid, the file descriptors of the link, the liveness page, the pipe for log records

The supervisor's Hello carries the settings snapshot. A worker must not read agentapp.yaml, so that editing
the file has no effect on running workers. Exit status: 0 after a requested stop, 78 if the project cannot
work as it is, 1 otherwise. A SIGTERM that the supervisor did not send ends the process with that signal.

Read next: `host` and `serve`.
"""

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentscope_protocol.wire.endpoint import Event
from agentscope_protocol.wire.frames import Hello
from agentscope_protocol.wire.link import Link
from agentscope_protocol.wire.page import NAME_BLOCKS, WRITES, LifePage
from agentscope_protocol.wire.responder import Responder
from agentscope_worker import forked_children, log_output, process_exit, watchdog
from agentscope_worker.loop_runner import LoopRunner

if TYPE_CHECKING:
    from agentscope_worker.asgi.server import AsgiServer

log = logging.getLogger(__name__)

EX_CONFIG: Final = 78  # sysexits.h
EX_LOST: Final = 70  # sysexits.h, EX_SOFTWARE: the supervisor is gone

MAX_FAILURE_TEXT: Final = 8 * 1024
"""Characters in the report of a failed startup: enough for a long traceback, and it fits into one frame."""

UNASKED_TIMEOUT: Final = 10.0
"""Seconds for running turns and `on_shutdown` when the supervisor, which normally limits them, is gone or has
not asked for the end of this process."""

EXIT_SHARE: Final = 0.75
"""Share of `supervisor.stop_timeout` in which the process exits by itself, unless `on_shutdown` takes it."""


def main() -> None:
    """Run one worker. With `--check PROJECT PART…`, check a project; with `--preload`, run a zygote.

    Never returns.
    """
    # AgentScope has 180,000 objects that stay. With Python's thresholds, its import takes 0.2 s of CPU more.
    gc.set_threshold(50_000, 20, 20)
    if sys.argv[1] == "--check":
        from agentscope_worker.check import check

        process_exit.leave(check(Path(sys.argv[2]), sys.stdin.buffer.read(), sys.argv[3:]))
    if sys.argv[1] == "--preload":
        from agentscope_worker import zygote

        # Only a forked worker gets here; it continues with the arguments of a worker started directly.
        sys.argv[1:] = zygote.serve(int(sys.argv[2]), int(sys.argv[3]))
    supervisor, link, page, *records = map(int, sys.argv[1:5])
    # Programs that tools start must not hold the link: its end tells the supervisor about a crash.
    os.set_inheritable(link, False)
    watchdog.die_with_supervisor(supervisor)
    watchdog.enable_stack_dumps()
    watchdog.ignore_interrupts()
    process_exit.prepare()
    records_to = log_output.set_up(*records)
    import uvloop

    memory = watchdog.map_page(page)
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    forked_children.keep_apart(runner.get_loop(), link, memory)
    pausing = LoopRunner(runner)
    work = _work(socket.socket(fileno=link), LifePage(memory), records_to, pausing)
    status, within = pausing.run(work)
    # The runner is not closed: that would wait for the executor's threads. Neither they nor threads of
    # libraries (exporters, pools) may delay the exit of a process that has finished its work.
    process_exit.leave(status, within)


async def _work(
    sock: socket.socket, page: LifePage, records_to: logging.Handler, runner: LoopRunner
) -> tuple[int, float]:
    """Run the worker until it is stopped; returns its exit status, and the seconds in which it must exit."""
    # Imported here because heavy imports must come after `die_with_supervisor`.
    from agentscope_protocol.config import settings as settings_module
    from agentscope_worker import host
    from agentscope_worker.installed_requirements import requirement_problems
    from agentscope_worker.runtime import AgentApp
    from agentscope_worker.serve import Server
    from agentscope_worker.sessions import Sessions

    worker = _Worker()
    await worker.connect(sock)
    hello = await worker.greeting
    if hello is None:
        return EX_LOST, process_exit.EXIT_TIMEOUT
    snapshot, project = hello.items["settings"], hello.items["project"]
    assert isinstance(snapshot, bytes)
    assert isinstance(project, (str, bytes))
    settings, folder = settings_module.restore(snapshot), Path(os.fsdecode(project))
    if hello.items["slot"] == 0 and hello.items["generation"] == 1:  # once for each instance
        for problem in requirement_problems(folder / "requirements.txt"):
            log.warning("%s", problem)
    if record := os.environ.pop(WRITES, None):
        from agentscope_worker.write_watch import WriteWatch

        os.set_inheritable(int(record), False)
        sys.addaudithook(WriteWatch(folder, int(record)))
    try:
        worker_label = "{slot!s}.{generation!s}".format_map(hello.items)
        runtime = await host.boot(
            settings,
            folder,
            worker=worker_label,
            member=str(hello.items.get("member", "")),  # supervisors of older releases do not send it
            outside=runner.outside,
        )
    except host.BootError as error:
        worker.notice("failed", json.dumps({"message": error.message[:MAX_FAILURE_TEXT]}))
        return EX_CONFIG if error.permanent else 1, process_exit.EXIT_TIMEOUT
    log_output.adopt_agentscope(records_to)
    app, life = runtime.hosted, watchdog.LifeSigns(page)
    server: Server | AsgiServer
    if isinstance(app, AgentApp):
        sessions = Sessions(app, runtime.session, worker.request_replacement)
        runtime.session.on_stale = sessions.is_stale
        server = Server(app, worker.link, life, sessions)
        ready: dict[str, object] = {"forms": sessions.stream_kinds}
    else:
        from agentscope_worker.asgi import server as asgi_server

        replace = worker.request_replacement
        server = asgi_server.AsgiServer(app, worker.link, life, runtime.session, settings, replace)
        ready = {"forms": server.stream_kinds, "hosted": app.kind}
    if os.environ.get(NAME_BLOCKS):
        from agentscope_worker.loop_watch import LoopWatch

        LoopWatch(folder)
    worker.serve(server.on_event)
    # Objects created so far live as long as the process: exclude them from garbage collection.
    gc.collect()
    gc.freeze()
    worker.notice("ready", json.dumps(ready))
    await worker.stop
    loop = asyncio.get_running_loop()
    stopped_at, orphaned = loop.time(), worker.link.connection.closed
    # Supervisors of older releases do not mark the page.
    asked = page.stop_asked or "marks_stop" not in hello.items
    status = 0 if asked or orphaned else -signal.SIGTERM
    if status:
        log.warning("SIGTERM ends this worker, and the supervisor has not sent it: open turns are lost")
    # A supervisor that has asked limits the shutdown itself.
    bound = asyncio.timeout(None if asked and not orphaned else UNASKED_TIMEOUT)
    try:
        async with bound:
            await server.stop(asked=asked)
            await runtime.shutdown()
    except Exception:
        if bound.expired():
            log.error("turns or on_shutdown did not end within %g s", UNASKED_TIMEOUT)
            return status or EX_LOST, process_exit.EXIT_TIMEOUT
        log.exception("on_shutdown raised")  # also a TimeoutError of its own
    worker.link.flush()
    left = EXIT_SHARE * settings.supervisor.stop_timeout - (loop.time() - stopped_at)
    return status, min(max(left, 0.1), process_exit.EXIT_TIMEOUT)


class _Worker:
    """The link of this process, and the events on it outside of turns."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.greeting: asyncio.Future[Hello | None] = loop.create_future()
        self.stop: asyncio.Future[None] = loop.create_future()
        self.link: Link[Responder] = Link(Responder({"pid": os.getpid()}), self._on_event, self._on_lost)
        self._serve: Callable[[Event], None] | None = None

    async def connect(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: self.link, sock=sock)

    def serve(self, handler: Callable[[Event], None]) -> None:
        """Pass all further events to `handler`, and stop on SIGTERM."""
        self._serve = handler
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._end)

    def notice(self, word: str, detail: str) -> None:
        self.link.connection.notice(word, detail)
        self.link.flush()

    def request_replacement(self, reason: str) -> None:
        """Ask the supervisor for a new process in the place of this one, as in a rollout."""
        if not self.link.connection.closed:
            self.notice("worn", json.dumps({"message": reason}))

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Hello):
            self.greeting.set_result(event)
        elif self._serve is not None:
            self._serve(event)

    def _on_lost(self, _reason: str, unfinished: Sequence[Event]) -> None:
        for event in unfinished:
            self._on_event(event)
        if not self.greeting.done():
            self.greeting.set_result(None)
        self._end()

    def _end(self) -> None:
        if not self.stop.done():
            self.stop.set_result(None)
