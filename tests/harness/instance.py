"""One real supervisor with its workers, started and stopped by a test.

An `Instance` owns its processes: every process that descends from it has a mark in its environment, so
orphans are found too. It uses HTTP only to see whether the instance is ready; requests are the task of
`tests.harness.client`.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import psutil

from tests.harness import standin
from tests.harness.waiting import wait_until

LOG_QUIET: Final = 0.15  # seconds without a new line after which the log counts as complete
LOG_SETTLES_WITHIN: Final = 2.0  # seconds after which the log is read even if the instance still prints
COMMAND: Final = Path(sys.executable).with_name("agentscope-supervisor")
FORKS: Final = "--preload"  # in the command line of the zygote, and so of its forks
MARK: Final = "TEST_INSTANCE"  # environment variable of all processes of one instance

STATE: Final = str(Path(tempfile.gettempdir(), f"agentscope-supervisor-tests-{os.getpid()}"))
"""The state directory of commands that get no other, so that no test writes to the user's."""

READY_WITHIN: Final = 40.0  # seconds; 3 to 4 s on an idle machine, mostly AgentScope's import
START_WITHIN: Final = 100.0
"""Seconds; below the time limit of a whole test. How fast an instance starts is no subject of the tests that
only need one, and one that ends in place of starting fails its test at once."""
STOP_WITHIN: Final = 20.0  # seconds; above the drain_timeout that the tests configure
GONE_WITHIN: Final = 2.0  # seconds from the exit of the supervisor to that of its last worker
SHOWN_LINES: Final = 150  # last lines of the log in the report of a failed test

_PORTS: Final = range(16_000, 32_000)  # below the ephemeral ports of Linux, macOS and BSD

PASS_ON: Final = """if True:
    import fcntl, os, sys
    end = next(i for i, word in enumerate(sys.argv) if not word.isdigit() and i)
    for number, fd in enumerate([fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1:end]]):
        os.dup2(fd, 3 + number)
        os.close(fd)
    os.environ.update(LISTEN_FDS=str(end - 1), LISTEN_PID=str(os.getpid()))
    os.execv(sys.argv[end], sys.argv[end:])
"""
"""What systemd does between fork and exec; the arguments are the descriptors and the command."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One entry of `workers` in /health."""

    slot: int
    generation: int
    pid: int
    state: str

    @property
    def label(self) -> str:
        """The value of the header X-Agentscope-Worker."""
        return f"{self.slot}.{self.generation}"


def environment(**more: str) -> dict[str, str]:
    """Return the environment for a command: that of the tests, without variables that would redirect it.

    No bytecode of an App is written: one that a test changes twice within a second would be loaded stale.
    """
    ours = {"RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "STATE_DIRECTORY", "XDG_STATE_HOME"}
    ours |= {"NOTIFY_SOCKET", "PYTHONPATH", "COLUMNS", "LINES"}
    kept = {key: value for key, value in os.environ.items() if key not in ours}
    ours_too = {"XDG_STATE_HOME": STATE, "PYTHONDONTWRITEBYTECODE": "1"}
    return {**kept, **ours_too, **standin.variables(more)}


def run(
    *arguments: str | Path, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. The timeout allows for a start of a worker on a busy machine."""
    return subprocess.run(
        arguments,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**variables),
        timeout=100,
        check=False,
    )


class Instance:
    """`agentscope-supervisor start PROJECT …`, seen from outside. Use as a context manager."""

    def __init__(
        self,
        project: Path,
        directory: Path,
        *,
        name: str = "test",
        workers: int = 2,
        port: int | None = 0,
        arguments: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        as_pid_one: bool = False,
        platform: bool = False,
        under: Sequence[str] = (),
        passed_on: Sequence[socket.socket] = (),
        command: Path = COMMAND,
    ) -> None:
        """`directory`: for runtime files, state and log; two instances may share it.

        `as_pid_one`: run in its own namespaces, as in a container; the instance then knows its workers by
        other pids. `port` None: use the port in the file. `platform`: whether to use the platform in the
        file. `under`: a command that executes the one after it, such as `prlimit`. `passed_on`: sockets to
        pass on as systemd does. `command`: the program, for one of another environment.
        """
        self.project: Final = project
        self.runtime_dir: Final = directory / "run"
        self.name: Final = name
        self._mark: Final = uuid.uuid4().hex
        self._log: Final = directory / f"{name}-{self._mark[:8]}.log"
        self._command: Final = [
            *under,
            *(str(command), "start", str(project)),
            *(() if port is None else ("--host", "127.0.0.1", "--port", str(port))),
            *("--workers", str(workers), "--runtime-dir", str(self.runtime_dir), "--name", name),
            *("--state-dir", str(directory / "state")),
            *([] if platform else ["--no-platform"]),
            *("--log-level", "info", "--log-format", "text", *arguments),
        ]
        if as_pid_one:
            self._command[:0] = ["unshare", "-Urpf", "--mount-proc", "--kill-child"]
        self._as_pid_one: Final = as_pid_one
        self._passed_on: Final = [sock.fileno() for sock in passed_on]
        if passed_on:
            self._command[:0] = [sys.executable, "-c", PASS_ON, *map(str, self._passed_on)]
        self._variables: Final = dict(variables or {})
        self.workers_asked: Final = workers
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self.running:
                assert self.stop() == 0, "a stopped instance exits with 0"
        finally:
            self.destroy()

    # -- start and stop ---------------------------------------------------------------------

    def launch(self) -> Self:
        """Start the process and return at once."""
        assert self.process is None, "an instance can be started only once"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self._passed_on,
                env=environment(**self._variables, **{MARK: self._mark}),
            )
        return self

    def start(self) -> Self:
        """Start, and wait until every worker is ready."""
        self.launch().wait_ready()
        return self

    def wait_listening(self, within: float = START_WITHIN) -> None:
        """Wait until the instance has published its address. Raises: AssertionError if it exits earlier."""

        def listening() -> bool:
            assert self.running, f"the instance ended with {self.status} before it listened"
            with contextlib.suppress(FileNotFoundError):
                # an older file may be left by a killed instance
                return bool(self.address["pid"] == (1 if self._as_pid_one else self.pid))
            return False

        wait_until(listening, within, "the instance listens")

    def wait_ready(self, within: float = START_WITHIN) -> None:
        """Wait until /readiness answers 200 and all workers are ready."""

        def ready() -> bool:
            assert self.running, f"the instance ended with {self.status} before it was ready"
            with contextlib.suppress(urllib.error.URLError):  # not ready or not listening yet
                self.fetch("/readiness")
                return len(self.ready_workers()) == self.workers_asked
            return False

        self.wait_listening(within)
        wait_until(ready, within, f"{self.workers_asked} workers are ready")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor only."""
        assert self.process is not None
        if self.process.poll() is None:
            os.kill(self.pid, number)

    def wait_exit(self, within: float) -> int:
        """Return the exit status of the supervisor. Raises: AssertionError if it does not exit in time."""
        assert self.process is not None
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the supervisor has not ended within {within:g} s") from None

    def stop(self, within: float = STOP_WITHIN) -> int:
        """Send SIGTERM and return the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait_exit(within)

    def destroy(self) -> None:
        """Kill all remaining processes. Raises: AssertionError if a worker outlives the supervisor."""
        if self.process is None:
            return
        if self.running:
            self.process.kill()
        self.process.wait()
        try:
            wait_until(lambda: not self.processes(), GONE_WITHIN, "no worker outlives its supervisor")
        finally:
            for left in self.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.kill()

    @property
    def found_by(self) -> list[str]:
        """The options with which a command finds this instance."""
        return ["--runtime-dir", str(self.runtime_dir), "--name", self.name]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run an operator's command on this instance to its end."""
        return subprocess.run(
            [str(COMMAND), *arguments, *self.found_by],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=60,
            check=False,
        )

    def wait_generation(self, slot: int, generation: int) -> None:
        """Wait until the slot's worker of this generation is ready."""
        wanted = (slot, generation)
        wait_until(
            lambda: wanted in [(worker.slot, worker.generation) for worker in self.ready_workers()],
            READY_WITHIN,
            f"worker {slot}.{generation} is ready",
        )

    # -- observations ------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the supervisor's process exists."""
        return self.process is not None and self.process.poll() is None

    @property
    def status(self) -> int | None:
        """The exit status; None while the instance runs."""
        return None if self.process is None else self.process.poll()

    @property
    def pid(self) -> int:
        """The pid of the supervisor, in the namespace of the tests."""
        assert self.process is not None
        if self._as_pid_one:
            (supervisor,) = psutil.Process(self.process.pid).children()
            return supervisor.pid
        return self.process.pid

    @property
    def directory(self) -> Path:
        """The directory of the instance below its runtime directory."""
        return self.runtime_dir / "agentscope-supervisor" / self.name

    @property
    def _published(self) -> Path:
        return self.directory / "instance.json"

    @property
    def address(self) -> dict[str, Any]:
        """The content of instance.json."""
        value: dict[str, Any] = json.loads(self._published.read_text("utf-8"))
        return value

    @property
    def port(self) -> int:
        """The port of the instance."""
        return int(self.address["port"])

    @property
    def log(self) -> str:
        """The complete output of the instance, once no line has arrived for LOG_QUIET seconds.

        Output of workers passes through a pipe and the log thread, and may arrive after the answer that it
        belongs to.
        """
        size, until = -1, time.monotonic() + LOG_SETTLES_WITHIN
        while self._log.exists() and self._log.stat().st_size != size and time.monotonic() < until:
            size = self._log.stat().st_size
            time.sleep(LOG_QUIET)
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    @property
    def last_log_lines(self) -> str:
        """The end of the log, for the report of a failed test."""
        return "\n".join(self.log.splitlines()[-SHOWN_LINES:])

    def fetch(self, path: str) -> dict[str, Any]:
        """Return the JSON object at `path`. Raises: urllib.error.HTTPError for 4xx and 5xx."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
            value: dict[str, Any] = json.load(response)
        return value

    def health(self) -> dict[str, Any]:
        """Return the body of /health, whatever its status."""
        try:
            return self.fetch("/health")
        except urllib.error.HTTPError as error:
            with error:
                value: dict[str, Any] = json.load(error)
            return value

    def workers(self) -> list[Worker]:
        """Return the workers in /health."""
        entries = self.health()["workers"]
        return [Worker(e["slot"], e["generation"], e["pid"], e["state"]) for e in entries]

    def ready_workers(self) -> list[Worker]:
        """Return the ready workers, ordered by slot."""
        ready = [worker for worker in self.workers() if worker.state == "ready"]
        return sorted(ready, key=lambda worker: worker.slot)

    def generations(self) -> list[int]:
        """Return the generations of the ready workers, ordered by slot."""
        return [worker.generation for worker in self.ready_workers()]

    def worker_in(self, slot: int) -> Worker:
        """Return the ready worker of a slot, which must have one."""
        return next(worker for worker in self.ready_workers() if worker.slot == slot)

    def zygotes(self) -> list[psutil.Process]:
        """Return the zygotes: one, or two while one replaces the other.

        All workers must be ready: a worker that /health does not list yet looks like a zygote.
        """
        workers = {worker.pid for worker in self.workers()}
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.pid not in workers and process.ppid() == self.pid and FORKS in process.cmdline():
                    found.append(process)
        return found

    def processes(self) -> list[psutil.Process]:
        """Return the living processes of this instance, except the supervisor, anywhere in the tree."""
        assert self.process is not None
        # Once, not for each process of the machine: as PID 1, the pid of the supervisor takes a search.
        excluded = {self.process.pid, os.getpid(), *([self.pid] if self.running else [])}
        return [each for each in psutil.process_iter() if each.pid not in excluded and self._is_ours(each)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            return alive and process.environ().get(MARK) == self._mark
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False


def free_port() -> int:
    """Return a TCP port on which nothing listened a moment ago, outside the ephemeral range.

    The port is random, because other tests may choose theirs at the same time.
    """
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
