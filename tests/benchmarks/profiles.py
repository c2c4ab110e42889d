"""Where the time goes: each scenario of the path under a sampler, as flame graphs and tables.

    python -m tests.benchmarks.profiles [--only short,burst] [--seconds 6]        (make profiles)

Starts ours with two workers for each scenario, drives its load as the benchmarks do, and samples the
supervisor, then the worker that has most to do: one at a time, as a sampler takes time of what it samples.
Writes docs/performance/profiles.md, of what was asked for, and its graphs. py-spy is installed beside the
benchmarks' peers; it stops the process by ptrace, which root may, and others where
kernel.yama.ptrace_scope is 0.
"""

import argparse
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

from tests.benchmarks import flame, folded
from tests.benchmarks.__main__ import CACHE, DOCS, ENDS, end, names
from tests.benchmarks.candidates import CANDIDATES, Running
from tests.benchmarks.folded import Place, Stacks
from tests.benchmarks.goals import OURS
from tests.benchmarks.load import Failed, build, cpu_seconds
from tests.benchmarks.peers import Environments, NotThere
from tests.benchmarks.report import table
from tests.benchmarks.results import machine
from tests.benchmarks.scenarios import SCENARIOS, Setting

PATH: Final = ("short", "client", "burst", "tick", "paced-1000", "big")
ROLES: Final = {"front": "supervisor", "workers": "worker"}
RATE: Final = 197  # samples a second; not in step with streams that are paced by 20 ms
FEWEST: Final = 20  # samples, below which a profile says nothing
SAMPLES_WITHIN: Final = 20.0  # seconds beyond the sampling: reading symbols, writing the result
FUNCTIONS: Final = 12  # in the table of a profile
START, BETWEEN = 6.0, 3.0  # seconds, about, of an instance and of a run besides its windows; for the plan

PAGE: Final = "profiles.md"
IMAGES: Final = "images/profiles"

INTRODUCTION: Final = f"""# Profiles

Written by `make profiles`; no number here is typed. {CANDIDATES[OURS].title}, under the loads of the
benchmarks, with prebuilt messages. In a graph each box is a function, as wide as its share of the time, on
the one that called it, and coloured by whose code it is. Opened by itself, a graph tells the whole name and
the share of the box under the mouse. What begins with `mypyc` is a module of ours that is compiled.
[index.md](index.md) says what is left, and what it would take.

Shares are of the time in which the process had work; waiting is left out. What the interpreter does for a
function is that function's own time. What a system call takes is the *kernel*'s; sending to a socket of this
machine does a part of the receiver's work. How much of its CPU a process spends in the kernel is the kernel's
own count, in a window before the sampler comes, and the samples of system calls are weighed to that: to a
sampler, a process that waits for a core is one that works, and it waits most often in a call that has just
woken another. The kernel counts by ticks of its clock: a share of a few per cent is rough.
""".strip()


@dataclass(frozen=True, slots=True)
class Profile:
    """One process under one load. `cores`: of CPU, without the sampler; `kernel`: the share of it there."""

    scenario: str
    role: str
    stacks: Stacks
    samples: int
    cores: float
    kernel: float

    @property
    def image(self) -> str:
        return f"{IMAGES}/{self.scenario}-{ROLES[self.role]}.svg"

    @property
    def title(self) -> str:
        return f"{self.scenario}, {ROLES[self.role]}"


# -- taking --------------------------------------------------------------------------------------


def taken(
    scenario: str, binary: Path, environments: Environments, seconds: float
) -> Iterator[Profile | Failed]:
    """The profiles of a scenario, or why one is missing."""
    with tempfile.TemporaryDirectory(prefix="profile-") as name:
        folder = Path(name)
        with CANDIDATES[OURS].start(folder, environments) as running:
            for role in ROLES:
                try:
                    yield sampled(scenario, role, Setting(binary, folder, seconds), running, environments)
                except (Failed, OSError, psutil.Error, subprocess.SubprocessError) as error:
                    yield Failed(f"{scenario}, {ROLES[role]}: {error}")


def sampled(
    scenario: str, role: str, setting: Setting, running: Running, environments: Environments
) -> Profile:
    """One run. Raises: Failed; subprocess.TimeoutExpired; OSError and psutil.Error if the process ends."""
    asked, processes = SCENARIOS[scenario], running.roles[role]
    options = replace(asked.options, seconds=2 * setting.seconds + SAMPLES_WITHIN)
    with setting.load(running, running.request(asked.script), options) as load:
        load.wait("open")
        before = [cpu_seconds(process) for process in processes]
        load.wait("begin")
        used = [cpu_seconds(process) - then for process, then in zip(processes, before, strict=True)]
        process = processes[used.index(max(used))]
        cores, kernel = cpu(process, setting.seconds)
        stacks = folded.read(record(process.pid, setting, environments))
    samples = round(sum(stacks.values()))
    if samples < FEWEST:
        raise Failed(f"only {samples} samples")
    return Profile(scenario, role, folded.weighed(stacks, kernel), samples, cores, kernel)


def cpu(process: psutil.Process, seconds: float) -> tuple[float, float]:
    """Cores that a process uses, and the kernel's share of them."""
    before, began = process.cpu_times(), time.monotonic()
    time.sleep(seconds)
    after, took = process.cpu_times(), time.monotonic() - began
    kernel = after.system - before.system
    used = kernel + after.user - before.user
    return used / took, kernel / used if used else 0.0


def record(pid: int, setting: Setting, environments: Environments) -> str:
    """The folded stacks of a process. Raises: Failed."""
    found = setting.folder / "stacks"
    command = [
        *(str(environments.bin("py-spy") / "py-spy"), "record", "--pid", str(pid), "--native"),
        *("--function", "--format", "raw", "--rate", str(RATE), "--output", str(found)),
        *("--duration", str(max(1, round(setting.seconds)))),
    ]
    within = setting.seconds + SAMPLES_WITHIN
    done = subprocess.run(command, capture_output=True, text=True, timeout=within, check=False)
    if done.returncode != 0:
        raise Failed(f"py-spy: {(done.stderr or done.stdout).strip()[-400:]}")
    return found.read_text("utf-8")


# -- the page ------------------------------------------------------------------------------------


def page(profiles: Sequence[Profile], told: str) -> str:
    parts = [INTRODUCTION, told]
    for scenario in dict.fromkeys(profile.scenario for profile in profiles):
        here = [profile for profile in profiles if profile.scenario == scenario]
        parts += [f"## {scenario}", SCENARIOS[scenario].title + ".", places(here)]
        for profile in here:
            parts += [
                f"### {profile.title}",
                f"{profile.cores:.2f} cores, {profile.kernel:.0%} of that in the kernel; "
                f"{profile.samples} samples.",
                f"[![{profile.title}]({profile.image})]({profile.image})",
                functions(profile),
            ]
    return "\n\n".join(parts) + "\n"


def places(profiles: Sequence[Profile]) -> str:
    """Whose code it is, of each process."""
    shares = [folded.by_place(profile.stacks) for profile in profiles]
    rows = [[str(place), *(f"{share[place]:.0%}" for share in shares)] for place in Place]
    return table(["whose code", *(ROLES[profile.role] for profile in profiles)], rows)


def functions(profile: Profile) -> str:
    """Those that take most."""
    most = folded.own(profile.stacks)[:FUNCTIONS]
    return table(["own time", "function"], [[f"{share:.1%}", f"`{frame.full}`"] for frame, share in most])


def write(profiles: Sequence[Profile], told: str, docs: Path) -> None:
    """The page and its graphs."""
    (docs / IMAGES).mkdir(parents=True, exist_ok=True)
    for profile in profiles:
        (docs / profile.image).write_text(flame.drawing(profile.title, profile.stacks), "utf-8")
    (docs / PAGE).write_text(page(profiles, told), "utf-8")


def told(environments: Environments, seconds: float) -> str:
    """Of what, where and when. Raises: NotThere. Installs the sampler."""
    ours = {name: version(name) for name in ("agentscope-supervisor", "agentscope", "aiohttp", "uvloop")}
    versions = ", ".join(
        f"{name} {number}" for name, number in {**ours, **environments.versions("py-spy")}.items()
    )
    return f"{machine()}. {versions}. {seconds:g} s for a profile, {time.strftime('%d %B %Y')}."


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.profiles",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", type=names(PATH), default=list(PATH), metavar="SCENARIO,…")
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="of each profile, and of the window before it"
    )
    parser.add_argument("--peers", type=Path, default=CACHE, help="folder of the peers' environments")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder to write the page into")
    asked = parser.parse_args()
    for each in ENDS:
        signal.signal(each, end)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    environments = Environments(asked.peers)
    takes = len(asked.only) * (START + len(ROLES) * (2 * asked.seconds + BETWEEN))
    print(f"{', '.join(asked.only)}: about {takes:.0f} seconds", flush=True)
    found: list[Profile] = []
    failed = 0
    try:
        about = told(environments, asked.seconds)
        with tempfile.TemporaryDirectory(prefix="profile-load-") as folder:
            binary = build(Path(folder))
            for scenario in asked.only:
                for profile in taken(scenario, binary, environments, asked.seconds):
                    if isinstance(profile, Failed):
                        failed += 1
                        print(f"failed: {profile}", file=sys.stderr, flush=True)
                    else:
                        found.append(profile)
                        print(f"{profile.title:24} {profile.samples:5} samples", flush=True)
    except KeyboardInterrupt:
        print("\ninterrupted; nothing is written")
        return 130
    except (Failed, NotThere) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    if found:
        write(found, about, asked.docs)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
