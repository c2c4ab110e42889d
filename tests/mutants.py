"""Tests of the tests: plants the bugs listed in tests/mutants/*.toml, one at a time, and wants each caught.

`make mutants`, or `make mutants ARGS="codec flow"` for the files whose path holds one of the words. A list
is extended by an entry; nothing here knows what the bugs are. The sources are copied to a temporary folder,
the bug is planted there, and the tests run against the copy; the repository is never changed.

Exit status 1 if a bug survives, if an entry no longer fits its file, or if the tests fail without a bug.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
HOUSES: Final = ("protocol", "supervisor", "worker")
AT_ONCE: Final = 2  # what the smallest machine of ours has of cores
TIME_LIMIT: Final = 120  # seconds for one run of the tests; a bug may also show by a hang

# Run in the child. The editable install knows the real sources too, so that the copy wins is checked.
RUN_TESTS: Final = """
import importlib, pathlib, sys, pytest
copy, module, *arguments = sys.argv[1:]
try:
    found = pathlib.Path(importlib.import_module(module).__file__).resolve()
except Exception as error:
    sys.exit(f"UNUSABLE: {module} cannot be imported: {error!r}")
if not found.is_relative_to(pathlib.Path(copy).resolve()):
    sys.exit(f"UNUSABLE: the tests would run against {found}")
sys.exit(pytest.main(arguments))
"""


@dataclass(frozen=True, slots=True)
class Mutant:
    file: str  # relative to the root
    why: str
    old: str
    new: str
    tests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    good: bool
    text: str  # the test that caught it, or what is wrong
    seconds: float


def mutants(words: Sequence[str]) -> list[Mutant]:
    found: list[Mutant] = []
    for table in sorted(ROOT.glob("tests/mutants/*.toml")):
        for entry in tomllib.loads(table.read_text())["mutant"]:
            entry["tests"] = tuple(entry.get("tests", [mirror(entry["file"])]))
            found.append(Mutant(**entry))
    return [mutant for mutant in found if not words or any(word in mutant.file for word in words)]


def mirror(file: str) -> str:
    """The tests of one source file: those of protocol/agentscope_protocol/wire/flow.py are in
    tests/protocol/wire/test_flow.py."""
    house, _, *rooms, name = Path(file).parts
    return str(Path("tests", house, *rooms, f"test_{name}"))


def run_tests(file: str, tests: Sequence[str], change: tuple[str, str] | None) -> tuple[int | None, str]:
    """Exit status of pytest, None for a hang, and its output, against a copy of the sources."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        for house in HOUSES:
            shutil.copytree(ROOT / house, Path(folder, house), ignore=shutil.ignore_patterns("__pycache__"))
        if change is not None:
            mutated = Path(folder, file)
            mutated.write_text(mutated.read_text().replace(*change))
        module = ".".join(Path(file).with_suffix("").parts[1:])
        options = ["-x", "-q", "--tb=no", "-rfE", "--no-header", "-p", "no:cacheprovider", *tests]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(str(Path(folder, house)) for house in HOUSES),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HYPOTHESIS_PROFILE": "mutants",
        }
        command = [sys.executable, "-c", RUN_TESTS, folder, module, *options]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT
            )
        except subprocess.TimeoutExpired:
            return None, ""
        return done.returncode, done.stdout + done.stderr


def try_mutant(mutant: Mutant) -> Outcome:
    started = time.monotonic()

    def outcome(good: bool, text: str) -> Outcome:
        return Outcome(good, text, time.monotonic() - started)

    count = (ROOT / mutant.file).read_text().count(mutant.old)
    if count != 1:
        return outcome(False, f"STALE: `old` occurs {count} times")
    status, output = run_tests(mutant.file, mutant.tests, (mutant.old, mutant.new))
    if status is None:
        return outcome(True, f"the tests hang ({TIME_LIMIT} s)")
    if "UNUSABLE" in output:
        return outcome(False, output.strip().splitlines()[-1])
    if status == 0:
        return outcome(False, "SURVIVED")
    caught = re.search(r"^(?:FAILED|ERROR) \S*?([^/\s]+\.py\S*)", output, re.MULTILINE)
    if caught is None:
        return outcome(False, f"pytest gave {status}: {output.strip()[-200:]}")
    return outcome(True, caught.group(1))


def try_unchanged(file: str, tests: Sequence[str]) -> Outcome:
    """The tests must pass without a bug, or that they fail with one says nothing."""
    started = time.monotonic()
    status, output = run_tests(file, tests, None)
    text = "passes unchanged" if status == 0 else f"FAILS UNCHANGED: {output.strip()[-300:]}"
    return Outcome(status == 0, text, time.monotonic() - started)


def main(words: Sequence[str]) -> int:
    started = time.monotonic()
    chosen = mutants(words)
    if not chosen:
        print(f"no mutant is listed for {' '.join(words)}", file=sys.stderr)
        return 1
    suites = {mutant.tests: mutant.file for mutant in chosen}
    bad = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [("", pool.submit(try_unchanged, file, tests), file) for tests, file in suites.items()]
        runs += [(mutant.why, pool.submit(try_mutant, mutant), mutant.file) for mutant in chosen]
        for why, run, file in runs:
            outcome = run.result()
            bad += not outcome.good
            mark = "ok " if outcome.good else "BAD"
            print(
                f"{mark} {outcome.seconds:5.1f} s  {Path(file).stem:<12} {outcome.text:<60.90}  {why}",
                flush=True,
            )
    print(f"{len(chosen)} bugs planted, {bad} lines are BAD, {time.monotonic() - started:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
