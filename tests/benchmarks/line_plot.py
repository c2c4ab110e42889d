"""Lines over time as an SVG: one for each series, named where it ends. Pure.

By hand, as in `plot`, and in colours that are legible on a light and a dark page.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

WIDTH, HEIGHT = 760, 300  # pixels
LEFT, RIGHT, TOP, BOTTOM = 44, 150, 28, 34  # of them for the numbers, the names, the title, the times
NAMES_APART: Final = 13
STEPS: Final = 5  # lines of the grid, about
COLOURS: Final = ("#2f81f7", "#8957e5", "#d29922", "#3fb950", "#f85149", "#39c5cf")
TEXT: Final = "#8b949e"

Points = Sequence[tuple[float, float]]


def drawing(title: str, series: Mapping[str, Points], across: str) -> str:
    """The whole file. `across`: what the first number of a point is. No value is below 0."""
    most_x = max(x for points in series.values() for x, _ in points) or 1.0
    step = step_of(max(y for points in series.values() for _, y in points) or 1.0)
    most_y = step * (int(max(y for points in series.values() for _, y in points) / step) + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + x / most_x * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - y / most_y * (HEIGHT - TOP - BOTTOM),
        )

    parts = [f'<text x="{LEFT}" y="15" font-size="13" font-weight="bold">{escape(title)}</text>']
    for number in range(round(most_y / step) + 1):
        x, y = at(0, number * step)
        parts.append(f'<path d="M{x:.0f} {y:.1f}H{WIDTH - RIGHT}" stroke="{TEXT}" stroke-opacity="0.25"/>')
        parts.append(f'<text x="{x - 6:.0f}" y="{y + 4:.1f}" text-anchor="end">{number * step:g}</text>')
    for x in (0.0, most_x / 2, most_x):
        place = f'x="{at(x, 0)[0]:.0f}" y="{HEIGHT - 16}" text-anchor="middle"'
        parts.append(f"<text {place}>{x:.3g}</text>")
    parts.append(f'<text x="{WIDTH - RIGHT + 24}" y="{HEIGHT - 16}">{escape(across)}</text>')
    names = places([at(*points[-1])[1] for points in series.values()])
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        label = f"{escape(name)} {points[-1][1]:.0f}"
        parts.append(
            f'<text x="{WIDTH - RIGHT + 8}" y="{names[number] + 4:.1f}" fill="{colour}">{label}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="11" fill="{TEXT}">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def step_of(most: float) -> float:
    """Between two lines of the grid: 1, 2 or 5 times a power of ten."""
    power = 1.0
    while power * 10 <= most / STEPS:
        power *= 10
    while power > most / STEPS:
        power /= 10
    return max(power * factor for factor in (1, 2, 5) if power * factor <= most / STEPS)


def places(wanted: Sequence[float]) -> list[float]:
    """Where the names go: each at its line, or as far below as those above it need."""
    found = list(wanted)
    lowest = float("-inf")
    for index in sorted(range(len(wanted)), key=lambda index: wanted[index]):
        found[index] = lowest = max(wanted[index], lowest + NAMES_APART)
    return found
