"""Results: cells that are kept, goals that are compared, pages that are written."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.benchmarks import goals, report
from tests.benchmarks.candidates import CANDIDATES
from tests.benchmarks.goals import GOALS, Goal, How
from tests.benchmarks.plot import Bar, Panel, drawing
from tests.benchmarks.results import ROOT, Results, Spread
from tests.benchmarks.scenarios import COLUMNS, SCENARIOS

IDENTITY = {"machine": "m", "code": "c", "seconds": 1.0}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results.json", IDENTITY)


def test_an_interrupted_run_goes_on_and_what_failed_is_tried_again(tmp_path: Path, results: Results) -> None:
    results.put("short", "ours-2", 0, {"turns": 10.0})
    results.put("short", "ours-2", 1, "it fell over")
    again = Results(tmp_path / "results.json", IDENTITY)
    assert again.has("short", "ours-2", 0)
    assert not again.has("short", "ours-2", 1)
    assert not again.has("short", "ours-2", 2)
    assert again.rounds("short", "ours-2", "turns") == {0: 10.0}


def test_cells_of_other_code_are_put_aside(tmp_path: Path, results: Results) -> None:
    results.put("short", "ours-2", 0, {"turns": 10.0})
    other = Results(tmp_path / "results.json", IDENTITY | {"code": "d"})
    assert not other.has("short", "ours-2", 0)
    assert (tmp_path / "results.before.json").exists()


def test_a_goal_is_the_ratio_of_medians_with_the_spread_of_the_rounds(results: Results) -> None:
    for number, (mine, other) in enumerate([(10, 10), (30, 10), (20, 40)]):
        results.put("short", "ours-2", number, {"turns": float(mine)})
        results.put("short", "haproxy-2", number, {"turns": float(other)})
    goal = Goal("", "short", "turns", 2, True, How.RATIO, "haproxy-2")
    assert goal.value(results) == Spread(2.0, 0.5, 3.0)


def test_a_goal_that_was_not_measured_has_no_value(results: Results) -> None:
    results.put("short", "ours-2", 0, {"turns": 10.0})
    results.put("short", "haproxy-2", 0, "it fell over")
    assert Goal("", "short", "turns", 2, True, How.RATIO, "haproxy-2").value(results) is None
    assert Goal("", "short", "turns", 5, True).value(results) == Spread(10, 10, 10)


@pytest.mark.parametrize(
    "at_least, value, reached, far_off",
    [
        (True, 2.0, True, False),
        (True, 1.9, False, False),
        (True, 0.9, False, True),
        (False, 2.0, True, False),
        (False, 2.1, False, False),
        (False, 4.1, False, True),
    ],
)
def test_far_off_is_twice_beyond_the_goal(at_least: bool, value: float, reached: bool, far_off: bool) -> None:
    goal = Goal("", "short", "turns", 2, at_least)
    assert goal.reached(value) == reached
    assert goal.far_off(value) == far_off


def test_where_a_figure_stands_below_its_goal_the_guard_is_there() -> None:
    goal = Goal("", "short", "turns", 2, True, stands=1)
    assert not goal.reached(1.9)
    assert not goal.far_off(0.6)
    assert goal.far_off(0.4)


def test_what_stands_misses_its_goal() -> None:
    assert not [goal.title for goal in GOALS if goal.stands is not None and goal.reached(goal.stands)]


def test_goals_and_tables_name_what_there_is() -> None:
    for goal in GOALS:
        assert goal.scenario in SCENARIOS
        assert goal.figure in COLUMNS
        assert set(goal.candidates) <= set(CANDIDATES)
    for each in SCENARIOS.values():
        assert set(each.shows) <= set(COLUMNS)
    for _, scenario, front, workers, _ in report.SIZES:
        assert scenario in SCENARIOS
        assert {front, workers} <= set(COLUMNS)


def test_a_page_has_what_was_measured_and_what_failed(tmp_path: Path, results: Results) -> None:
    for number in range(3):
        results.put("short", goals.OURS, number, {"turns": 1200.0 + number, "front_turn": 45e-6})
        results.put("short", "uvicorn-2", number, "it | fell over")
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / report.SIZING).write_text(f"Sizes\n{report.BEGINS}\nold\n{report.ENDS}\nthe end\n", "utf-8")
    report.write(results, docs)
    page = (docs / report.PAGE).read_text("utf-8")
    assert "| agentscope-supervisor, 2 workers | 1 201 (1 200–1 202) | – |" in page
    assert "| FastAPI on uvicorn, 2 workers | failed: it / fell over |" in page
    assert "| short, supervisor's CPU, µs/turn | ≤ 45 | 45 | yes |" in page
    sizing = (docs / report.SIZING).read_text("utf-8")
    assert "| a short turn | 45.0 | – | µs of CPU | 22 222 |" in sizing
    assert "old" not in sizing
    assert sizing.endswith(f"{report.ENDS}\nthe end\n")
    ElementTree.fromstring((docs / report.PLOT).read_text("utf-8"))


def test_a_plot_has_a_bar_for_each_candidate() -> None:
    bars = [Bar("a & b", 50, 40, 100, "50", True), Bar("nothing", 0, 0, 0, "0", False)]
    svg = ElementTree.fromstring(drawing([Panel("one", bars), Panel("two", bars), Panel("three", bars)]))
    widths = [float(rect.attrib["width"]) for rect in svg.iter("{http://www.w3.org/2000/svg}rect")]
    assert len(widths) == 6
    assert widths[0] > widths[1] == 0


def test_the_command_measures_ours(tmp_path: Path) -> None:
    asked = ["--quick", "--only", "short,blocked", "--candidates", "ours-1", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *asked, "--seconds", "0.5", "--peers", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    # One worker is not what the goals are for: nothing to guard.
    assert done.returncode == 0, done.stderr
    assert "short" in done.stdout
    assert "failed" not in done.stdout
