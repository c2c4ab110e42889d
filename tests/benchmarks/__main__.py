"""The benchmarks: ours beside others, the same load on each, rounds interleaved.

    python -m tests.benchmarks [--only short,burst] [--candidates ours-2,haproxy-2] [--rounds 3] [--seconds 3]
    python -m tests.benchmarks --quick        (make bench, make bench-quick)

Says first what it will do and how long it takes. In each round each scenario is done to one candidate after
the other; a candidate is started for its first scenario of a round, idles beside the others, and is ended
after the round. What is measured is kept after each cell: an interrupted run goes on where it stopped. A
candidate that fails is reported in its cells, and the rest goes on. Writes benchmarks.md in
docs/performance/ with its plot, and the figures in sizing.md, unless --quick. To be run on a machine that
does nothing else.
"""

import argparse
import itertools
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import psutil

from agentscope_supervisor import FORM
from tests.benchmarks import report
from tests.benchmarks.candidates import CANDIDATES, Running
from tests.benchmarks.goals import GOALS
from tests.benchmarks.load import Failed, build
from tests.benchmarks.peers import Environments, NotThere, proxy_version
from tests.benchmarks.results import ROOT, Results, fingerprint, machine
from tests.benchmarks.scenarios import SCENARIOS, Figures, Setting

START: Final = 6.0  # seconds, about, for the plan
DOCS: Final = ROOT / "docs" / "performance"
CACHE: Final = Path.home() / ".cache/agentscope-supervisor/peers"

ENDS: Final = (signal.SIGINT, signal.SIGTERM)

QUICK_CANDIDATES: Final = ("ours-2", "haproxy-2", "uvicorn-2")
QUICK_SCENARIOS: Final = ("short", "client", "burst", "cpu", "paced-1000")
QUICK_SECONDS: Final = 1.5


class Pool:
    """The candidates that run now. One that does not start is not tried again while the pool lives."""

    def __init__(self, environments: Environments) -> None:
        self._environments: Final = environments
        self._running: Final[dict[str, tuple[ExitStack, Running, Path]]] = {}
        self._broken: Final[dict[str, str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def get(self, name: str) -> tuple[Running, Path]:
        """A candidate that answers, and a folder of its own. Raises: Failed."""
        if name in self._broken:
            raise Failed(self._broken[name])
        if name not in self._running:
            with ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
                try:
                    running = stack.enter_context(CANDIDATES[name].start(folder, self._environments))
                except (AssertionError, NotThere, OSError, psutil.Error) as error:
                    self._broken[name] = f"does not start: {error}{last_words(folder)}"
                    raise Failed(self._broken[name]) from None
                self._running[name] = stack.pop_all(), running, folder
        return self._running[name][1:]

    def drop(self, name: str) -> None:
        """End one of them."""
        if name in self._running:
            self._running.pop(name)[0].close()

    def clear(self) -> None:
        """End all."""
        for name in list(self._running):
            self.drop(name)


def last_words(folder: Path) -> str:
    """The end of what a candidate has printed."""
    logs = [path.read_text("utf-8", "replace").strip() for path in folder.glob("*log")]
    return "".join(f"; {text.splitlines()[-1][:200]}" for text in logs if text)


def measure(pool: Pool, binary: Path, scenario: str, candidate: str, seconds: float) -> Figures | str:
    """The figures of one cell, or why there are none."""
    asked = SCENARIOS[scenario]
    if asked.fresh:
        pool.clear()  # memory is shared with what else runs the same code
    try:
        running, folder = pool.get(candidate)
        return asked.measure(asked, Setting(binary, folder, seconds), running)
    except (Failed, OSError, psutil.Error) as failure:
        pool.drop(candidate)
        return str(failure)
    finally:
        if asked.fresh:
            pool.drop(candidate)


def versions(candidates: Sequence[str], environments: Environments) -> dict[str, str]:
    """Of all that is measured; what is not there says so. Installs what is missing."""
    told = {name: version(name) for name in ("agentscope-supervisor", "agentscope", "aiohttp", "uvloop")}
    told["agentscope-supervisor"] += f" ({FORM})"
    for name in candidates:
        candidate = CANDIDATES[name]
        try:
            if candidate.peer is not None:
                told |= {
                    f"{package} of {candidate.peer}": number
                    for package, number in environments.versions(candidate.peer).items()
                }
            told |= {proxy: proxy_version(proxy) for proxy in candidate.proxies}
        except NotThere as error:
            told[name] = f"not there: {error}"
    return told


def plan(asked: argparse.Namespace) -> float:
    """Seconds that all takes, about."""
    cells = sum(SCENARIOS[name].expected(asked.seconds) for name in asked.only)
    starts = sum(SCENARIOS[name].fresh for name in asked.only) + (1 / asked.rounds if asked.quick else 1)
    return float(len(asked.candidates) * asked.rounds * (cells + starts * START))


def names(known: Sequence[str]) -> Callable[[str], list[str]]:
    """An option of names with commas."""

    def read(text: str) -> list[str]:
        if unknown := [name for name in text.split(",") if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return text.split(",")

    return read


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a guard: ours against two, under 3 minutes")
    parser.add_argument("--only", type=names(list(SCENARIOS)), metavar="SCENARIO,…")
    parser.add_argument("--candidates", type=names(list(CANDIDATES)), metavar="CANDIDATE,…")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, help="of each window (3; 1.5 with --quick)")
    parser.add_argument("--peers", type=Path, default=CACHE, help="folder of the peers' environments")
    parser.add_argument("--results", type=Path, help="file of results (in the folder of the peers)")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder to write the pages into")
    parser.add_argument("--anew", action="store_true", help="forget what was measured before")
    parser.add_argument("--list", action="store_true", help="scenarios and candidates")
    asked = parser.parse_args()
    asked.only = asked.only or list(QUICK_SCENARIOS if asked.quick else SCENARIOS)
    asked.candidates = asked.candidates or list(QUICK_CANDIDATES if asked.quick else CANDIDATES)
    asked.seconds = asked.seconds or (QUICK_SECONDS if asked.quick else 3.0)
    asked.results = asked.results or asked.peers / ("results-quick.json" if asked.quick else "results.json")
    return asked


def run(asked: argparse.Namespace, results: Results, environments: Environments) -> None:
    """Measure what is not measured yet."""
    with tempfile.TemporaryDirectory(prefix="bench-load-") as folder, Pool(environments) as pool:
        binary = build(Path(folder))
        for number in range(asked.rounds):
            # Each round begins with another, so that none is always first after a pause.
            at = number % len(asked.candidates)
            turn = asked.candidates[at:] + asked.candidates[:at]
            for scenario, candidate in itertools.product(asked.only, turn):
                if not results.has(scenario, candidate, number):
                    cell = measure(pool, binary, scenario, candidate, asked.seconds)
                    results.put(scenario, candidate, number, cell)
                    said = report.in_short(scenario, cell)
                    print(f"round {number + 1} {scenario:15} {candidate:10} {said}", flush=True)
            if not asked.quick:
                pool.clear()  # what is measured in the next has not grown old


def guard(results: Results) -> int:
    """Print the goals that were measured; 1 if one is far off."""
    print()
    print(report.goals(results, measured_only=True))
    far_off = [goal.title for goal in GOALS if (value := goal.value(results)) and goal.far_off(value.median)]
    for title in far_off:
        print(f"far off: {title}", file=sys.stderr)
    return 1 if far_off else 0


def end(number: int, frame: Any) -> NoReturn:
    """Ctrl-C and SIGTERM end it with all that it has started; a second one may not interrupt that."""
    for each in ENDS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    asked = options()
    if asked.list:
        print(report.listing())
        return 0
    for each in ENDS:
        signal.signal(each, end)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # thousands of streams; inherited by all
    environments = Environments(asked.peers)
    minutes = plan(asked) / 60
    print(f"scenarios: {', '.join(asked.only)}\ncandidates: {', '.join(asked.candidates)}")
    print(f"{asked.rounds} rounds of {asked.seconds:g} s each: about {minutes:.0f} minutes", flush=True)
    try:
        told = versions(asked.candidates, environments)
        print("\n".join(f"  {name} {number}" for name, number in told.items()), flush=True)
        identity = {"code": fingerprint(), "machine": machine(), "seconds": asked.seconds}
        results = Results(asked.results, identity, anew=asked.anew or asked.quick)
        results.versions |= told
        began = time.monotonic()
        run(asked, results, environments)
    except KeyboardInterrupt:
        goes_on = (
            "" if asked.quick else f"; {asked.results} has what is measured, and the same command goes on"
        )
        print(f"\ninterrupted{goes_on}")
        return 130
    print(f"took {(time.monotonic() - began) / 60:.1f} minutes")
    if not asked.quick:
        report.write(results, asked.docs)
    return guard(results) if asked.quick else 0


if __name__ == "__main__":
    sys.exit(main())
