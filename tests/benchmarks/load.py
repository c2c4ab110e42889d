"""Runs the load generator, load.c: builds it, reads what it tells, looks at the candidate meanwhile.

`drive` is one run; `Usage` is what a role has used of the machine in its window. See load.c for what it
counts, and why it is a program of its own.
"""

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psutil

SOURCE: Final = Path(__file__).with_name("load.c")
BUILT_WITH: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra")
Roles = Mapping[str, Sequence[psutil.Process]]

OVER: Final = 20.0  # seconds beyond what a run should take, after which it is ended


class Failed(Exception):
    """A cell has no result; the text says why."""


@dataclass(frozen=True, slots=True)
class Options:
    """Of load.c, in seconds and bytes a second."""

    connections: int = 1
    seconds: float = 1.0
    warm_up: float = 0.0
    open_within: float = 20.0
    ramp: float = 0.0
    think: float = 0.0
    sessions: int = 0
    base: int = 0
    requests: int = 0
    read_rate: int = 0
    stamps: bool = False
    reconnect: bool = False

    def arguments(self) -> list[str]:
        words: list[str] = []
        for name, value in asdict(self).items():
            if value is not False:
                words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        return words

    @property
    def expected(self) -> float:
        """Seconds that a run takes at most."""
        return self.open_within + self.warm_up + self.seconds


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one role: cores in the window; MB (PSS) before the load, and at the end of the window."""

    cores: float
    before: float
    after: float


def build(folder: Path, source: Path = SOURCE) -> Path:
    """Compile a program of the harness into a folder. Raises: Failed."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Failed(f"{source.name} is in C, and there is no compiler: install gcc")
    binary = folder / source.stem
    done = subprocess.run(
        [compiler, *BUILT_WITH, "-o", str(binary), str(source)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Failed(done.stderr)
    return binary


class Load:
    """One run against a port, in the background from the start of the block. Use as a context manager."""

    def __init__(self, binary: Path, folder: Path, port: int, request: bytes, options: Options) -> None:
        self._file: Final = folder / f"request-{id(self)}"
        where = ["--port", str(port), "--request", str(self._file)]
        self._command: Final = [str(binary), *where, *options.arguments()]
        self._request: Final = request
        self._expected: Final = options.expected
        self._process: subprocess.Popen[str]
        self._timer: threading.Timer

    def __enter__(self) -> "Load":
        self._file.write_bytes(self._request)
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._timer = threading.Timer(self._expected + OVER, self._process.kill)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._process.kill()
        self._process.communicate()
        self._file.unlink(missing_ok=True)

    def wait(self, word: str) -> str:
        """The rest of the next line that begins with `word`. Raises: Failed, if the run ends before."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line.removeprefix(word).strip()
        raise Failed(f"the load ended without {word!r}, after at most {self._expected + OVER:.0f} s")

    def result(self) -> dict[str, Any]:
        """What it counted; its connections are there until the block ends. Raises: Failed."""
        try:
            value: dict[str, Any] = json.loads("{" + self.wait("{"))
        except ValueError:
            raise Failed("the load was ended while it told its result") from None
        return value


def drive(
    load: Load, roles: Roles, once_open: Callable[[], object] = bool
) -> tuple[dict[str, Any], dict[str, Usage]]:
    """Run a load to its end: what it counted, and what each role has used in its window. Raises: Failed.

    `once_open` is called between the opening and the warm-up, which goes on meanwhile.
    """
    before = by_role(roles, memory)
    with load:
        load.wait("open")
        once_open()
        load.wait("begin")
        cpu = by_role(roles, cpu_seconds)
        load.wait("end")
        spent = by_role(roles, cpu_seconds)
        result = load.result()
        after = by_role(roles, memory)
    return result, {
        role: Usage((spent[role] - cpu[role]) / result["seconds"], before[role], after[role])
        for role in roles
    }


def by_role(roles: Roles, of: Callable[[psutil.Process], float]) -> dict[str, float]:
    """The sum over the processes of each role. Raises: Failed if one has ended."""
    try:
        return {role: sum(map(of, processes)) for role, processes in roles.items()}
    except (psutil.Error, OSError) as error:
        raise Failed(f"a process of it has ended: {error}") from None


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def memory(process: psutil.Process) -> float:
    """MB, what is shared divided among those that share it."""
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text("utf-8")
    (kilobytes,) = (int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return kilobytes / 1024
