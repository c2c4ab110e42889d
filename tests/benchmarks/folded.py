"""Samples of a process made readable: what each frame is, where it belongs, what has how much of all. Pure.

A sampler tells stacks as lines, `outermost (file:line);…;innermost (file:line) times`. Of these, what waits
is left out, and so is what no reader asks for: how the loop was started, the interpreter's own functions,
whose time is that of the function which they run, and all but the innermost of a row of frames of the event
loop. The time of a system call is the kernel's.

Where to read next: `flame` draws the stacks, `profiles` takes them.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Place(StrEnum):
    """Whose code it is."""

    OURS = "our modules"
    AIOHTTP = "aiohttp"
    LOOP = "asyncio, uvloop"
    AGENTSCOPE = "AgentScope, pydantic"
    JSON = "json"
    KERNEL = "kernel"
    REST = "the rest"


@dataclass(frozen=True, slots=True)
class Frame:
    """A function. `module`: dotted, or the library of one that is compiled."""

    module: str
    name: str

    @property
    def full(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def place(self) -> Place:
        return PLACES.get(self.module.partition(".")[0], Place.REST)


Stack = tuple[Frame, ...]
Stacks = Mapping[Stack, float]
"""Weights of stacks, outermost frame first; none is empty."""

PLACES: Final = {
    package: place
    for place, packages in {
        Place.OURS: ("agentscope_supervisor", "agentscope_worker", "agentscope_protocol", "mypyc"),
        Place.AIOHTTP: ("aiohttp", "multidict", "yarl", "propcache"),
        Place.LOOP: ("asyncio", "uvloop", "libuv", "selectors"),
        Place.AGENTSCOPE: ("agentscope", "pydantic", "pydantic_core"),
        Place.JSON: ("json", "orjson"),
        Place.KERNEL: ("kernel",),
    }.items()
    for package in packages
}

SOURCES: Final = {
    "loop": "uvloop",
    **dict.fromkeys(("core", "linux", "stream", "loop-watcher", "tcp", "udp", "timer", "async"), "libuv"),
    "_asynciomodule": "asyncio",
    **dict.fromkeys(("_http_parser", "_http_writer", "llhttp", "api", "http"), "aiohttp"),
    "_multidict": "multidict",
    "_json": "json",
    **dict.fromkeys(("_cmsgpack", "pack", "unpack", "unpack_template"), "msgpack"),
}
"""Libraries by the names of their compiled sources, where they have them in their debug information. The time
in others is that of the function which called them."""

LIBC: Final = ("libc.", "libc-", "libpthread", "ld-musl")
SYSTEM_CALLS: Final = frozenset(
    (
        *("read", "write", "readv", "writev", "recv", "recvmsg", "recvfrom", "send", "sendmsg", "sendto"),
        *("accept", "accept4", "close", "open", "open64", "fsync", "fdatasync", "epoll_ctl", "syscall"),
        *("getpid", "getrandom", "mmap", "munmap", "madvise", "mprotect", "brk", "futex", "sched_yield"),
    )
)
WAITS: Final = frozenset(
    (
        *("epoll_wait", "epoll_pwait", "poll", "select", "clock_nanosleep", "nanosleep", "sem_clockwait"),
        *("PyThread_acquire_lock_timed", "take_gil", "pthread_cond_wait", "pthread_cond_timedwait"),
    )
)
"""Functions in which a thread does nothing. The sampler takes some of their samples for work, as it has to
wake a thread to stop it."""

STARTS: Final = frozenset(("asyncio.runners.Runner.run", "threading.Thread.run"))
"""The last of the frames that all stacks of a thread begin with."""

MYPYC: Final = "agentscope_supervisor__mypyc"  # the library of our compiled modules
_OWN: Final = re.compile(r"CPy(?:Def|Py)_(?P<module>[a-z0-9_]+?)___(?P<rest>.+)")
_GENERATOR: Final = re.compile(r"(?P<name>.+?)(?:_(?P<owner>[A-Z]\w*))?_gen____\w+")

_FRAME: Final = re.compile(r"(?P<name>.*) \((?P<file>[^()]*?)(?::\d+)?\)")
_COMPILED: Final = re.compile(r"\.(cpython-|abi3|so)")
_DEEP: Final = 4  # innermost frames in which a wait is looked for: libc's own follow it


def read(text: str) -> dict[Stack, float]:
    """The stacks of what a sampler has written, but for those that wait."""
    found: defaultdict[Stack, float] = defaultdict(float)
    for line in text.splitlines():
        frames, _, times = line.rpartition(" ")
        words = frames.split(";")
        if times.isdigit() and not any(word.partition(" (")[0] in WAITS for word in words[-_DEEP:]):
            found[shortened([frame for word in words if (frame := frame_of(word)) is not None])] += int(times)
    found.pop((), None)
    return dict(found)


def frame_of(text: str) -> Frame | None:
    """None: its time is that of the function which called it."""
    match = _FRAME.fullmatch(text)
    if match is None:
        return None
    name, file = match["name"], match["file"]
    folder, _, base = file.rpartition("/")
    if file.endswith(".py"):
        return Frame(file.removesuffix(".py").removesuffix("/__init__").replace("/", "."), name)
    if base.startswith(LIBC):
        called = name.strip("_").removeprefix("libc_").removesuffix("_nocancel")
        return Frame("kernel", called) if called in SYSTEM_CALLS else None
    if base.startswith("libpython"):
        return None
    if ".so" in base:
        module = folder.partition("/")[0] or _COMPILED.split(base)[0]
        if module == MYPYC:
            return compiled(name)
        return Frame(module, "compiled" if name.startswith("0x") else name)
    module = SOURCES.get(base.rpartition(".")[0], "")
    return Frame(module, name) if module else None


def compiled(symbol: str) -> Frame | None:
    """The function of ours that mypyc has made this of; None: what its functions call to do Python's work."""
    match = _OWN.fullmatch(symbol)
    if match is None:
        return None
    module, rest = f"mypyc.{match['module']}", match["rest"]
    generator = _GENERATOR.fullmatch(rest)
    if generator is not None:  # a generator or a coroutine: a class, whose one method is what was written
        owner, name = generator["owner"], generator["name"]
        return Frame(module, f"{owner}.{name}" if owner else name)
    return Frame(module, rest.replace("___", ".", 1))


def shortened(frames: list[Frame]) -> Stack:
    """From where a thread's own work begins, and of neighbours that are the loop's, or the same, the last."""
    begins = max((at for at, frame in enumerate(frames) if frame.full in STARTS), default=-1)
    own = frames[begins + 1 :] or frames
    return tuple(
        frame
        for frame, inner in zip(own, [*own[1:], None], strict=True)
        if inner is None or (frame != inner and not frame.place is inner.place is Place.LOOP)
    )


def weighed(stacks: Stacks, kernel: float) -> dict[Stack, float]:
    """The same with this share for the kernel's, where any are, and its ways to each other as they were."""
    inside = sum(weight for stack, weight in stacks.items() if stack[-1].place is Place.KERNEL)
    outside = sum(stacks.values()) - inside
    if not inside or not outside or not 0 < kernel < 1:
        return dict(stacks)
    factor = kernel / (1 - kernel) * outside / inside
    return {
        stack: weight * factor if stack[-1].place is Place.KERNEL else weight
        for stack, weight in stacks.items()
    }


def own(stacks: Stacks) -> list[tuple[Frame, float]]:
    """Each function's share by its own time, without those that it called; the most first."""
    found: defaultdict[Frame, float] = defaultdict(float)
    for stack, weight in stacks.items():
        found[stack[-1]] += weight / sum(stacks.values())
    return sorted(found.items(), key=lambda each: (-each[1], each[0].full))


def by_place(stacks: Stacks) -> dict[Place, float]:
    """Shares by whose code it is, own time; all places, in their order."""
    found = dict.fromkeys(Place, 0.0)
    for frame, share in own(stacks):
        found[frame.place] += share
    return found
