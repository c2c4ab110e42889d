"""The supervisor's side of a zygote, the process that forks workers. Makes no decisions; `launcher` does.

A zygote is started like a worker. It has its own socket, with one JSON object in each packet:

    to the zygote    {"parts": […]}                     once, first: the features that the settings use
                     {"number": n, "folder": "…",
                      "variables": {"…": "…"}}          fork a worker; the packet carries its descriptors
    from the zygote  {"ready": modules}                 it accepts fork requests
                     {"refused": "why"}                 it cannot fork workers, and exits
                     {"number": n, "pid": pid}          sent by the worker itself: it is a child now
                     {"number": n, "failed": "why"}     the fork failed

A zygote that has died may have forked a worker before. Its workers hold the socket until they have sent their
packet, so only the end of the socket means that no further answer follows.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agentscope_supervisor.processes.output_pipe import OnLine, ProcessOutput
from agentscope_supervisor.processes.spawn import execute
from agentscope_supervisor.processes.worker_user import WorkerUser
from agentscope_supervisor.system import kernel

FORK_WITHIN: Final = 5.0
"""Seconds from a fork request to the packet of the worker; normally 10 ms. A slower zygote is useless."""

MAX_ANSWER: Final = 64 * 1024  # bytes of a packet; the longest contains an error message

OnAnswer = Callable[[int | str], None]
"""Called with the pid of the worker, or with the reason of the failure."""


class Zygote:
    """One running zygote."""

    def __init__(
        self,
        command: Sequence[str],
        project: Path,
        umask: int,
        parts: Sequence[str],
        on_line: OnLine,
        on_ready: Callable[[], None],
        on_refused: Callable[[str], None],
        on_exit: kernel.OnExit,
        user: WorkerUser | None = None,
    ) -> None:
        """Start a zygote with `command`. `user`: that of its workers, if it is another one.

        The command gets two more arguments: the pid of the supervisor, and the descriptor of its socket. Its
        workers have its `umask`; -1: that of the supervisor. The callbacks run on the event loop.

        Raises: OSError. No process and no descriptor is left then.
        """
        self._on_ready: Final = on_ready
        self._on_refused: Final = on_refused
        self._loop: Final = asyncio.get_running_loop()
        self._pending: dict[int, tuple[OnAnswer, asyncio.TimerHandle]] = {}
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs_only:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(self._socket.close)
            theirs_only.callback(theirs.close)
            read_end, write_end = os.pipe()
            undo.callback(os.close, read_end)
            theirs_only.callback(os.close, write_end)
            if user is not None:
                user.owns(write_end)
            self._socket.setblocking(False)
            self._socket.send(json.dumps({"parts": list(parts)}).encode())
            arguments = [*command, str(os.getpid()), str(theirs.fileno())]
            popen = execute(arguments, project, write_end, (theirs.fileno(),), {}, umask, user)
            undo.callback(popen.wait)
            undo.callback(popen.kill)
            kernel.on_exit(popen, lambda status: self._exited(status, on_exit))
            undo.pop_all()
        self.pid: Final = popen.pid
        self._popen: Final = popen
        self._output: Final = ProcessOutput(read_end, on_line)
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def fork(
        self,
        number: int,
        folder: Path,
        variables: Mapping[str, str],
        descriptors: Sequence[int],
        on_answer: OnAnswer,
    ) -> None:
        """Request a worker with `folder` as its working directory.

        `variables` are added to the environment of the zygote. `descriptors` may be closed after the call.
        `number` identifies the request. `on_answer` is called later, exactly once.
        """
        timer = self._loop.call_later(FORK_WITHIN, self._answer, number, "no answer in time")
        self._pending[number] = on_answer, timer
        in_utf8 = os.fsencode(folder).decode("utf-8", "surrogateescape")  # the zygote runs in UTF-8 mode
        request = json.dumps({"number": number, "folder": in_utf8, "variables": dict(variables)}).encode()
        try:
            socket.send_fds(self._socket, [request], descriptors)
        except OSError as error:  # the zygote has exited, or its socket is full
            self._loop.call_soon(self._answer, number, str(error))

    def kill(self) -> None:
        """Kill the zygote; `on_exit` is called. Workers that it has forked keep running."""
        self._popen.kill()

    def _exited(self, status: int, on_exit: kernel.OnExit) -> None:
        self._output.close()
        on_exit(status)

    def _readable(self) -> None:
        try:
            packet = self._socket.recv(MAX_ANSWER)
            answer: Any = json.loads(packet) if packet else None
        except BlockingIOError:
            return
        except (OSError, ValueError, RecursionError):
            answer = None
        match answer:
            case {"ready": int()}:
                self._on_ready()
            case {"refused": str(reason)}:
                self._on_refused(reason)
            case {"number": int(number), "pid": int(pid)} if number in self._pending:
                self._answer(number, pid)
            case {"pid": int(pid)}:  # after the timeout: the supervisor has closed its end of the link
                with contextlib.suppress(OSError):
                    kernel.on_exit_of_adopted(pid, lambda _: None)
                    os.kill(pid, signal.SIGKILL)
            case {"number": int(number), "failed": str(reason)}:
                self._answer(number, reason)
            case _:  # end of the socket, or an invalid packet
                self._loop.remove_reader(self._socket.fileno())
                self._socket.close()
                self._popen.kill()
                for number in list(self._pending):
                    self._answer(number, "the zygote has ended")

    def _answer(self, number: int, answer: int | str) -> None:
        on_answer, timer = self._pending.pop(number, (None, None))
        if on_answer is not None and timer is not None:
            timer.cancel()
            on_answer(answer)
