"""Fuzzes every target with atheris, guided by coverage, for a share of the given minutes each.

    python -m tests.fuzz [--minutes 5] [--corpus FOLDER] [TARGET ...]        (make fuzz MINUTES=5)

An input that raises is written to the corpus folder as `TARGET/crash-…`, and printed; the exit status is 1.
Inputs that reach new code stay in the folder, so that a later run continues from them. Each target runs in a
process of its own, because libFuzzer ends its process.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Final

MAX_INPUT: Final = 16_384  # bytes
SLOWEST: Final = 10  # seconds for one input; a slower one is reported as a hang
INSTRUMENTED: Final = ["agentscope_protocol", "agentscope_supervisor"]  # libraries would take minutes


def fuzz(name: str, folder: Path, seconds: int) -> int:
    """Run one target in this process. libFuzzer exits at the end."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import TARGETS

    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds):
        (folder / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_INPUT}", f"-timeout={SLOWEST}"]
    options += [f"-artifact_prefix={folder}/", "-rss_limit_mb=2048", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(folder)], TARGETS[name].run)
    atheris.Fuzz()
    return 0


def run_all(names: list[str], corpus: Path, seconds: int) -> int:
    """Run each target in a process, and print a line for it. Returns the exit status."""
    status = 0
    for name in names:
        command = [sys.executable, "-m", "tests.fuzz", "--corpus", str(corpus), "--alone", str(seconds), name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        runs = [line.split()[-1] for line in done.stderr.splitlines() if "executed_units" in line]
        print(f"{name:<12}{'FAILED' if done.returncode else 'ok':<8}{''.join(runs)} inputs", flush=True)
        if done.returncode:
            status = 1
            print(done.stderr[-4000:], file=sys.stderr)
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--minutes", type=float, default=5, help="for all targets together")
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"), help="folder of the inputs")
    parser.add_argument("--alone", type=int, metavar="SECONDS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        return fuzz(options.targets[0], options.corpus / options.targets[0], options.alone)
    from tests.fuzz.targets import TARGETS

    names = options.targets or list(TARGETS)
    if unknown := sorted(set(names) - TARGETS.keys()):
        parser.error(f"no target {', '.join(unknown)}; there are: {', '.join(TARGETS)}")
    return run_all(names, options.corpus, max(1, int(options.minutes * 60 / len(names))))


if __name__ == "__main__":
    sys.exit(main())
