"""What `supervisor.preload` brings: time to ready and memory of workers, with and without, side by side.

    python -m tests.benchmarks.preload [--workers 2 4 8] [--rounds 5]

Each round starts one real instance with preloading and one without, of an App with one openai slot, asks each
worker for one turn, kills one worker, and asks the log and the kernel. Prints a table in Markdown: medians,
and the least and the most of all rounds. To be run on a machine that does nothing else; elsewhere only
the CPU time and the memory mean something.
"""

import argparse
import asyncio
import os
import re
import signal
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import psutil

from tests.harness import projects
from tests.harness.client import session_in
from tests.harness.instance import Instance
from tests.harness.waiting import wait_until

READY: Final = re.compile(r"worker is ready worker=(\d+)\.(\d+) seconds=([\d.]+)")
READY_WITHIN: Final = 120.0  # seconds; eight interpreters start at once on two cores
SLOT: Final = {"provider": "openai", "model": "gpt-4", "api_key": "none", "base_url": "http://127.0.0.1:9/v1"}

COLUMNS: Final = (
    "first worker, s",
    "each of the others, s",
    "all ready, s",
    "replacement, s",
    "CPU of a start, s",
    "PSS of a worker, MB",
    "workers and zygote, MB",
)

Figures = dict[str, list[float]]


def pss(pid: int) -> float:
    """The memory of a process in MB, what it shares divided among those that share it."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8")
    (kilobytes,) = (int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return kilobytes / 1024


def ready_times(instance: Instance) -> dict[tuple[int, int], float]:
    """(slot, generation) -> seconds from the order to start a worker to its word that it is ready."""
    return {(int(slot), int(generation)): float(s) for slot, generation, s in READY.findall(instance.log)}


def measure(workers: int, preload: bool, figures: Figures) -> None:
    """One instance; adds to `figures`, by column."""
    with tempfile.TemporaryDirectory() as folder:
        supervisor = {"preload": preload, "workers": workers}
        project = projects.scripted(Path(folder) / "project", models={"main": SLOT}, supervisor=supervisor)
        with Instance(project, Path(folder), workers=workers).launch() as instance:
            instance.wait_ready(READY_WITHIN)
            ready = instance.ready_workers()
            spent = [sum(psutil.Process(worker.pid).cpu_times()[:2]) for worker in ready]
            for slot in range(workers):
                asyncio.run(session_in(instance.port, slot))
            memory = [pss(worker.pid) for worker in ready]
            zygote = sum(pss(process.pid) for process in instance.zygotes())
            os.kill(ready[0].pid, signal.SIGKILL)
            wait_until(lambda: (0, 2) in ready_times(instance), READY_WITHIN, "the slot is back")
            times = ready_times(instance)
    first, others = times[0, 1], [times[slot, 1] for slot in range(1, workers)]
    figures[COLUMNS[0]].append(first)
    figures[COLUMNS[1]] += others
    figures[COLUMNS[2]].append(first + max(others))
    figures[COLUMNS[3]].append(times[0, 2])
    figures[COLUMNS[4]] += spent
    figures[COLUMNS[5]] += memory
    figures[COLUMNS[6]].append(sum(memory) + zygote)


def cell(values: Iterable[float]) -> str:
    """Median (least to most)."""
    numbers = sorted(values)
    digits = 2 if numbers[-1] < 20 else 0
    middle, least, most = (
        f"{value:.{digits}f}" for value in (statistics.median(numbers), numbers[0], numbers[-1])
    )
    return f"{middle} ({least}–{most})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    found: defaultdict[tuple[int, bool], Figures] = defaultdict(lambda: defaultdict(list))
    for _ in range(asked.rounds):
        for workers in asked.workers:
            for preload in (False, True):
                measure(workers, preload, found[workers, preload])
    print("| workers | preload | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    for (workers, preload), figures in sorted(found.items()):
        cells = " | ".join(cell(figures[column]) for column in COLUMNS)
        print(f"| {workers} | {str(preload).lower()} | {cells} |")


if __name__ == "__main__":
    main()
