"""Fails unless the pure tests cover each pure module whole, branches included.

Run after `coverage run -m pytest <the pure tests>`, from the root of the repository, as
`python -m tools.purity`. `tools/architecture.py` says which modules are pure.
"""

import json
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import coverage
from coverage.exceptions import CoverageException, NoDataError

from tools.architecture import pure_modules

SHOWN = 12  # lines and branches listed per module; `coverage report -m` lists the rest


def gaps(modules: list[str]) -> list[str]:
    """One line for each module that is not covered whole."""
    sources = {module: str(spec.origin) for module in modules if (spec := find_spec(module))}
    measured = coverage.Coverage()
    measured.load()
    if not measured.get_data().has_arcs():
        raise NoDataError("no branches were measured")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "coverage.json")
        measured.json_report(morfs=list(sources.values()), outfile=str(report))
        files = {
            str(Path(name).resolve()): found
            for name, found in json.loads(report.read_text())["files"].items()
        }
    found: list[str] = [f"{module}: no such module" for module in modules if module not in sources]
    for module, source in sources.items():
        covered = files.get(str(Path(source).resolve()))
        if covered is None:
            found.append(f"{module}: not measured")
            continue
        lines = [str(line) for line in covered["missing_lines"]]
        # A negative target is the exit of the function or module that begins at that line.
        branches = [
            f"{start}->{'exit' if end < 0 else end}"
            for start, end in covered["missing_branches"]
            if start not in covered["missing_lines"]
        ]
        if missing := lines + branches:
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            found.append(f"{module}: never run: {', '.join(missing[:SHOWN])}{more}")
    return found


def main() -> int:
    modules = [name for name in pure_modules() if not name.startswith("agentscope_worker")]
    try:
        found = gaps(modules)
    except CoverageException as error:
        print(f"no coverage to read ({error}); run `make check`", file=sys.stderr)
        return 1
    for line in found:
        print(line, file=sys.stderr)
    if found:
        print(f"{len(found)} of {len(modules)} pure modules are not covered whole", file=sys.stderr)
        return 1
    print(f"{len(modules)} pure modules, each covered whole")
    return 0


if __name__ == "__main__":
    sys.exit(main())
