"""One zygote, the process that forks workers, as the supervisor sees it. Decides nothing; `launcher` does.

It is started as a worker is, and asked over a socket of its own, one JSON object in each packet:

    to it      {"parts": […]}                           once, first: what the workers' settings use
               {"number": n, "folder": "…",
                "variables": {"…": "…"}}                fork a worker; its three descriptors come along
    from it    {"ready": modules}                       it can be asked
               {"refused": "why"}                       it cannot, and ends
               {"number": n, "pid": pid}                from the worker itself: it is our child now
               {"number": n, "failed": "why"}           there is no such worker

A zygote that has died may have forked before: only the end of the socket, which its workers hold until they
have spoken, says that no answer comes any more.
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

from agentscope_supervisor.processes.output_pipe import OnLine, OutputPipe
from agentscope_supervisor.processes.spawn import execute
from agentscope_supervisor.system import kernel

FORK_WITHIN: Final = 5.0
"""Seconds from the request to the worker's word; it takes 10 ms. A zygote that is slower is no use."""

MAX_ANSWER: Final = 64 * 1024  # bytes; the longest holds the text of an error

Answered = Callable[[int | str], None]
"""Gets the pid of the worker, or why there is none."""


class Zygote:
    """One running zygote."""

    def __init__(
        self,
        command: Sequence[str],
        project: Path,
        parts: Sequence[str],
        on_line: OnLine,
        on_ready: Callable[[], None],
        on_refused: Callable[[str], None],
        on_exit: kernel.OnExit,
    ) -> None:
        """Start one: `command` with two more arguments, our pid and the descriptor of its socket.

        The callbacks run on the event loop. Raises: OSError; nothing is left of it then.
        """
        self._on_ready: Final = on_ready
        self._on_refused: Final = on_refused
        self._loop: Final = asyncio.get_running_loop()
        self._asked: dict[int, tuple[Answered, asyncio.TimerHandle]] = {}
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs_only:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(self._socket.close)
            theirs_only.callback(theirs.close)
            read_end, write_end = os.pipe()
            undo.callback(os.close, read_end)
            theirs_only.callback(os.close, write_end)
            self._socket.setblocking(False)
            self._socket.send(json.dumps({"parts": list(parts)}).encode())
            whole = [*command, str(os.getpid()), str(theirs.fileno())]
            popen = execute(whole, project, write_end, (theirs.fileno(),), {})
            undo.callback(popen.wait)
            undo.callback(popen.kill)
            kernel.on_exit(popen, lambda status: self._exited(status, on_exit))
            undo.pop_all()
        self.pid: Final = popen.pid
        self._popen: Final = popen
        self._output: Final = OutputPipe(read_end, on_line)
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def fork(
        self,
        number: int,
        folder: Path,
        variables: Mapping[str, str],
        descriptors: Sequence[int],
        answered: Answered,
    ) -> None:
        """Ask for a worker that works in `folder`, with these `variables` beside those of the zygote's
        environment, and these descriptors; they may be closed at once.

        `number` is ours, to tell the answers apart. `answered` is called later, exactly once.
        """
        timer = self._loop.call_later(FORK_WITHIN, self._answer, number, "no answer in time")
        self._asked[number] = answered, timer
        request = json.dumps({"number": number, "folder": str(folder), "variables": dict(variables)}).encode()
        try:
            socket.send_fds(self._socket, [request], descriptors)
        except OSError as error:  # it is gone, or has not read for long
            self._loop.call_soon(self._answer, number, str(error))

    def kill(self) -> None:
        """End it; its exit is reported. Workers that it has forked go on."""
        self._popen.kill()

    def _exited(self, status: int, on_exit: kernel.OnExit) -> None:
        self._output.close()
        on_exit(status)

    def _readable(self) -> None:
        try:
            packet = self._socket.recv(MAX_ANSWER)
            told: Any = json.loads(packet) if packet else None
        except BlockingIOError:
            return
        except (OSError, ValueError):
            told = None
        match told:
            case {"ready": int()}:
                self._on_ready()
            case {"refused": str(reason)}:
                self._on_refused(reason)
            case {"number": int(number), "pid": int(pid)} if number in self._asked:
                self._answer(number, pid)
            case {"pid": int(pid)}:  # too late: nobody holds the other end of its link
                with contextlib.suppress(OSError):
                    kernel.on_exit_of_adopted(pid, lambda _: None)
                    os.kill(pid, signal.SIGKILL)
            case {"number": int(number), "failed": str(reason)}:
                self._answer(number, reason)
            case _:  # the end, or no zygote of ours
                self._loop.remove_reader(self._socket.fileno())
                self._socket.close()
                self._popen.kill()
                for number in list(self._asked):
                    self._answer(number, "the zygote has ended")

    def _answer(self, number: int, told: int | str) -> None:
        answered, timer = self._asked.pop(number, (None, None))
        if answered is not None and timer is not None:
            timer.cancel()
            answered(told)
