"""The memory line: slopes, the page and its plot; the command on real instances, for seconds."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.benchmarks import memory_page
from tests.benchmarks.line_plot import NAMES_APART, drawing, places, step_of
from tests.benchmarks.memory_page import Mix, Sample, Sessions, second_half, slope
from tests.benchmarks.results import ROOT

MIX = Mix(600, 840_000, 11_000, 5_900, 0, 100_000)


def samples(supervisor: Sequence[float]) -> list[Sample]:
    """One at rest, and then one each ten seconds."""
    times = [-1.0, *(10.0 * number for number in range(len(supervisor) - 1))]
    return [
        Sample(at, {"supervisor": size, "worker 0": 40.0}, {"supervisor": 60, "worker 0": 17})
        for at, size in zip(times, supervisor, strict=True)
    ]


def test_a_slope_is_in_mb_an_hour() -> None:
    found = slope([(0, 50.0), (1800, 51.0), (3600, 52.0)])
    assert found.value == pytest.approx(2)
    assert found.within == pytest.approx(0, abs=1e-9)


def test_what_goes_up_and_down_has_a_slope_below_its_uncertainty() -> None:
    found = slope([(10.0 * number, 50 + number % 2) for number in range(30)])
    assert abs(found.value) < found.within


def test_two_points_have_no_slope() -> None:
    with pytest.raises(ValueError, match="2 points"):
        slope([(0, 1.0), (1, 2.0)])


def test_the_second_half_is_that_of_the_time_under_load() -> None:
    taken = samples([40, 50, 90, 100, 110, 110])
    assert second_half(taken, "supervisor") == [(20, 100), (30, 110), (40, 110)]


@pytest.mark.parametrize("most, step", [(0.9, 0.1), (7, 1), (107, 20), (260, 50), (5000, 1000)])
def test_a_grid_has_round_steps(most: float, step: float) -> None:
    assert step_of(most) == pytest.approx(step)


def test_names_do_not_lie_on_each_other() -> None:
    assert places([50, 200, 50, 51]) == [50, 200, 50 + NAMES_APART, 50 + 2 * NAMES_APART]


def test_a_plot_has_a_line_for_each_series() -> None:
    svg = ElementTree.fromstring(
        drawing("a & b", {"<one>": [(0, 1), (5, 9)], "two": [(0, 2), (5, 2)]}, "min")
    )
    space = "{http://www.w3.org/2000/svg}"
    assert len(list(svg.iter(f"{space}polyline"))) == 2
    assert "<one> 9" in [each.text for each in svg.iter(f"{space}text")]


def test_a_page_tells_the_line_and_the_sessions() -> None:
    taken = samples([40, 50, 90, 100, 110, 110, 110, 110])
    rest = {"supervisor": 44.0, "worker 0": 40.0}
    known, forgotten = {"supervisor": 94.0, "worker 0": 40.0}, {"supervisor": 54.0, "worker 0": 40.0}
    page = memory_page.page(taken, MIX, Sessions(102_400, rest, known, forgotten), "a machine")
    assert "a machine" in page
    assert "10 minutes of load: 840 000 short turns" in page
    assert "| supervisor | 40.0 | 110.0 | 110.0 | 110.0 | 0.0 ± 0.0 | 60 | 60 | 60 |" in page
    assert "| supervisor | 44.0 | 94.0 | 0.50 | 54.0 | 0.10 |" in page
    early = memory_page.page(taken, MIX, Sessions(102_400, rest, known, None), "a machine")
    assert "| supervisor | 44.0 | 94.0 | 0.50 | – | – |" in early


def test_the_command_measures_real_instances(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.memory_line", "--minutes", "0.1", "--sessions", "2000"]
    done = subprocess.run(
        [*command, "--docs", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / memory_page.PAGE).read_text("utf-8")
    assert "## After 2 000 sessions" in page
    assert page.count("\n| supervisor |") == 2
    assert page.count("\n| worker 1 |") == 2
    assert " 0 failures" in page
    ElementTree.parse(tmp_path / memory_page.PLOT)
