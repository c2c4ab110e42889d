"""Bars as an SVG: a panel for each scenario, a bar for each candidate, a line from least to most. Pure.

By hand, because all that it takes is rectangles and text; the colours are legible on a light and a dark page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

COLUMNS: Final = 2
WIDTH: Final = 470  # pixels of a panel
NAMES: Final = 90  # of it for the names, left of the bars
VALUES: Final = 80  # and for the numbers, right of them
BAR: Final = 14  # its height; the next begins 4 below
ROW: Final = 18
TITLE: Final = 26
GAP: Final = 16  # between panels
OURS: Final = "#2f81f7"
OTHERS: Final = "#8b949e"
SPREAD: Final = "#d29922"


@dataclass(frozen=True, slots=True)
class Bar:
    """A candidate; `low` and `high`: of its rounds."""

    name: str
    value: float
    low: float
    high: float
    label: str
    is_ours: bool


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    bars: Sequence[Bar]

    @property
    def height(self) -> int:
        return TITLE + ROW * len(self.bars) + GAP


def drawing(panels: Sequence[Panel]) -> str:
    """The whole file."""
    parts, top = [], GAP
    for at in range(0, len(panels), COLUMNS):
        row = panels[at : at + COLUMNS]
        parts += [drawn(panel, GAP + number * (WIDTH + GAP), top) for number, panel in enumerate(row)]
        top += max(panel.height for panel in row)
    width = COLUMNS * (WIDTH + GAP) + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" '
        f'font-family="sans-serif" font-size="11" fill="{OTHERS}">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def drawn(panel: Panel, left: int, top: int) -> str:
    """One panel."""
    full = max(bar.high for bar in panel.bars) or 1
    room = WIDTH - NAMES - VALUES
    start = left + NAMES
    parts = [f'<text x="{left}" y="{top + 12}" font-weight="bold">{escape(panel.title)}</text>']
    for number, bar in enumerate(panel.bars):
        y = top + TITLE + number * ROW
        colour = OURS if bar.is_ours else OTHERS
        low, middle, high = (max(0.0, each / full * room) for each in (bar.low, bar.value, bar.high))
        parts += [
            f'<text x="{start - 6}" y="{y + 11}" text-anchor="end">{escape(bar.name)}</text>',
            f'<rect x="{start}" y="{y}" width="{middle:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<path d="M{start + low:.1f} {y + BAR / 2:g}H{start + high:.1f}" stroke="{SPREAD}"/>',
            f'<text x="{start + high + 6:.1f}" y="{y + 11}">{escape(bar.label)}</text>',
        ]
    return "\n".join(parts)
