"""Results as people read them: lines while it runs, tables in Markdown, the pages in docs/performance/.

Nothing on these pages that is a number is typed: benchmarks.md is written whole, and in sizing.md the part
between two marks.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks.candidates import CANDIDATES
from tests.benchmarks.goals import GOALS, OURS
from tests.benchmarks.plot import Bar, Panel, drawing
from tests.benchmarks.results import Results, Spread
from tests.benchmarks.scenarios import COLUMNS, SCENARIOS, Column, Figures

PAGE: Final = "benchmarks.md"
PLOT: Final = "benchmarks.svg"
SIZING: Final = "sizing.md"
BEGINS: Final = "<!-- figures: make bench -->"
ENDS: Final = "<!-- end of figures -->"

INTRODUCTION: Final = """# Benchmarks

Written by `make bench`; no number here is typed. Load and candidate share the cores, so that only ratios
within this page mean something, not the absolute numbers. The load is one thread of C
(`tests/benchmarks/load.c`), whose share of a core is told. All candidates run the same turns
(`tests/benchmarks/apps/turns.py`) and write the same AgentScope messages, ours with everything on that is on
by default. In each round each scenario is done to one candidate after the other. A cell is the median of the
rounds, and in brackets the least and the most. *Front* is our supervisor, the proxy, or a master that only
watches its workers; memory is PSS.
"""

CPU: Final = "µs of CPU"
SIZES: Final = (
    ("a short turn", "short", "front_turn", "workers_turn", CPU),
    ("an event of a burst", "burst", "front_event", "workers_event", CPU),
    ("… of a new message each", "burst-real", "front_event", "workers_event", CPU),
    ("an event alone in its turn of the loop", "tick", "front_event", "workers_event", CPU),
    ("an event of 1 000 paced streams", "paced-1000", "front_event", "workers_event", CPU),
    ("… of a new message each", "paced-1000-real", "front_event", "workers_event", CPU),
    ("an open, silent stream", "idle-5000", "front_stream", "workers_stream", "KiB"),
    ("a session that had a turn", "sessions", "front_session", "workers_session", "KiB"),
    ("at rest: supervisor; both workers", "idle-5000", "front_rest", "workers_rest", "MB"),
)
"""What sizing.md tells of ours with two workers: what, scenario, figures, unit."""


# -- tables --------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def number(value: float, digits: int) -> str:
    rounded = round(value, digits) + 0.0  # no -0
    return f"{rounded:,.{digits}f}".replace(",", " ")


def cell(column: Column, value: Spread | None) -> str:
    """The median, and in brackets the least and the most if they are others."""
    if value is None:
        return "–"
    middle, least, most = (
        number(each * column.scale, column.digits) for each in (value.median, value.least, value.most)
    )
    return middle if least == most else f"{middle} ({least}–{most})"


def scenario_table(results: Results, scenario: str) -> str:
    shows = SCENARIOS[scenario].shows
    rows = []
    for candidate in ordered(results, scenario):
        title = CANDIDATES[candidate].title
        if failure := results.failure(scenario, candidate):
            rows.append([title, f"failed: {failure[:120]}".replace("|", "/"), *[""] * (len(shows) - 1)])
        else:
            values = (cell(COLUMNS[name], results.spread(scenario, candidate, name)) for name in shows)
            rows.append([title, *values])
    return table(["candidate", *(COLUMNS[name].heading for name in shows)], rows)


def goals(results: Results, *, measured_only: bool = False) -> str:
    """The table of goals; those that were not measured have a dash, or are left out."""
    rows = []
    for goal in GOALS:
        value = goal.value(results)
        if value is None and measured_only:
            continue
        column = Column("", 2 if goal.bound < 20 else 0)
        verdict = "–" if value is None else "yes" if goal.reached(value.median) else "no"
        rows.append([goal.title, goal.words, cell(column, value), verdict])
    return table(["what", "goal", "measured", "reached"], rows)


def ordered(results: Results, scenario: str) -> list[str]:
    """The candidates of a scenario, in the order of their table."""
    there = results.candidates(scenario)
    return [name for name in CANDIDATES if name in there]


def in_short(scenario: str, found: Figures | str) -> str:
    """A cell as a line of progress."""
    if isinstance(found, str):
        return f"failed: {found}"
    parts = []
    for name in SCENARIOS[scenario].shows:
        if name in found:
            column = COLUMNS[name]
            what, _, unit = column.heading.partition(", ")
            parts.append(f"{what} {number(found[name] * column.scale, column.digits)} {unit}".strip())
    return "; ".join(parts)


def listing() -> str:
    """What can be asked for."""
    known = [("scenarios", {name: each.title for name, each in SCENARIOS.items()})]
    known += [("candidates", {name: each.title for name, each in CANDIDATES.items()})]
    return "\n".join(
        f"{what}:\n" + "\n".join(f"  {name:16} {title}" for name, title in each.items())
        for what, each in known
    )


# -- pages ---------------------------------------------------------------------------------------


def write(results: Results, docs: Path) -> None:
    """Write benchmarks.md with its plot, and the figures in sizing.md."""
    docs.mkdir(exist_ok=True)
    (docs / PAGE).write_text(page(results), "utf-8")
    (docs / PLOT).write_text(drawing(panels(results)), "utf-8")
    sizing = docs / SIZING
    if sizing.exists():
        sizing.write_text(with_figures(sizing.read_text("utf-8"), sizes(results)), "utf-8")


def page(results: Results) -> str:
    told = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    rounds, seconds = results.number_of_rounds, results.identity["seconds"]
    parts = [
        INTRODUCTION,
        f"{results.identity['machine']}. {rounds} rounds, {seconds:g} s for a cell. {told}.",
        f"![]({PLOT})",
        "## Goals",
        f"Ours is {CANDIDATES[OURS].title}.",
        goals(results),
    ]
    for name, scenario in SCENARIOS.items():
        if results.candidates(name):
            parts += [f"## {scenario.title}", scenario_table(results, name)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def panels(results: Results) -> list[Panel]:
    found = []
    for name, scenario in SCENARIOS.items():
        column = COLUMNS[scenario.shows[0]]
        bars = []
        for candidate in ordered(results, name):
            value = results.spread(name, candidate, scenario.shows[0])
            if value is not None:
                low, middle, high = (each * column.scale for each in (value.least, value.median, value.most))
                label = number(middle, column.digits)
                bars.append(Bar(candidate, middle, low, high, label, candidate.startswith("ours")))
        if bars:
            better = "less is better" if column.less_is_better else "more is better"
            found.append(Panel(f"{name}: {column.heading} ({better})", bars))
    return found


def sizes(results: Results) -> str:
    """The table of sizing.md."""
    rows = []
    for what, scenario, front, workers, unit in SIZES:
        values = []
        for name in (front, workers):
            value = results.spread(scenario, OURS, name)
            values.append(cell(Column("", 0 if unit == "MB" else 1, COLUMNS[name].scale), value))
        cost = results.spread(scenario, OURS, front)
        full = number(1 / cost.median, 0) if unit == CPU and cost and cost.median else ""
        rows.append([what, *values, unit, full])
    return table(["what", "supervisor", "workers", "unit", "a core of the supervisor, each second"], rows)


def with_figures(text: str, figures: str) -> str:
    """A page with other figures between its marks."""
    return re.sub(
        f"{re.escape(BEGINS)}.*?{re.escape(ENDS)}",
        lambda _: f"{BEGINS}\n{figures}\n{ENDS}",
        text,
        flags=re.DOTALL,
    )
