"""Draws a graph in layers: one row of boxes for each layer, and curves that pass between the boxes. Pure."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from tools.docs.svg import box, drawing, text

Edge = tuple[str, str]

WIDTH, BOX, HEIGHT, ROW, TOP = 760, 108, 34, 92, 26  # pixels; ROW: from one row to the next
SPACE: Final = 9  # between two curves that pass the same row
COLOURS: Final = ("#4f6bd8", "#c2571a", "#1a8a5a", "#a8479f", "#8a7a12", "#1787a8", "#c43d58", "#6a6f78")
"""One for each row that curves begin in; each is readable on white and on black."""

Centres = Mapping[str, int]


def picture(title: str, rows: Sequence[Sequence[str]], edges: Sequence[Edge]) -> str:
    """The picture. Each edge goes from an upper row to a lower one; one that does not is drawn red."""
    centres = {name: x for row in rows for name, x in zip(row, _spread(len(row)), strict=True)}
    row_of = {name: number for number, row in enumerate(rows) for name in row}
    ways = _ways(rows, edges, centres, row_of)
    parts = [_curve(ways[edge], edge, row_of) for edge in edges]
    for number, row in enumerate(rows):
        for name in row:
            parts.append(box(centres[name] - BOX // 2, _top(number), BOX, HEIGHT))
            parts.append(text(centres[name], _top(number) + HEIGHT // 2 + 4, name, "name"))
    height = _top(len(rows) - 1) + HEIGHT + TOP
    told = "; ".join(f"{one} imports {other}" for one, other in edges)
    return drawing(WIDTH, height, title, told, parts)


def _top(row: int) -> int:
    return TOP + row * ROW


def _spread(count: int) -> list[int]:
    """Centres of so many boxes in a row. A single box stands left of the middle: curves pass beside it."""
    if count == 1:
        return [WIDTH * 2 // 5]
    return [WIDTH * (2 * number + 1) // (2 * count) for number in range(count)]


def _ways(
    rows: Sequence[Sequence[str]], edges: Sequence[Edge], centres: Centres, row_of: Mapping[str, int]
) -> dict[Edge, list[tuple[int, int]]]:
    """The points that each edge passes, from the bottom of a box to the top of another."""
    starts = _ports(edges, centres, row_of, of=0)
    ends = _ports(edges, centres, row_of, of=1)
    between: dict[Edge, list[tuple[int, int]]] = {edge: [] for edge in edges}
    for number, row in enumerate(rows):
        passing = [edge for edge in edges if row_of[edge[0]] < number < row_of[edge[1]]]
        wanted = {edge: _wanted(edge, starts, ends, row_of, number) for edge in passing}
        for edge, x in _placed(wanted, sorted(centres[name] for name in row)).items():
            between[edge] += [(x, _top(number)), (x, _top(number) + HEIGHT)]
    return {
        edge: [
            (starts[edge], _top(row_of[edge[0]]) + HEIGHT),
            *between[edge],
            (ends[edge], _top(row_of[edge[1]])),
        ]
        for edge in edges
    }


def _ports(edges: Sequence[Edge], centres: Centres, row_of: Mapping[str, int], *, of: int) -> dict[Edge, int]:
    """Where the edges of each box begin (`of` 0) or end (1): side by side, in the order of where they go."""
    found: dict[Edge, int] = {}
    for name, centre in centres.items():
        own = [edge for edge in edges if edge[of] == name]
        own.sort(key=lambda edge: (centres[edge[1 - of]], row_of[edge[1 - of]]))
        step = min(14, (BOX - 16) // max(1, len(own)))
        for number, edge in enumerate(own):
            found[edge] = centre + (2 * number - len(own) + 1) * step // 2
    return found


def _wanted(
    edge: Edge, starts: Mapping[Edge, int], ends: Mapping[Edge, int], row_of: Mapping[str, int], row: int
) -> int:
    """Where a straight line would pass a row."""
    first, last = row_of[edge[0]], row_of[edge[1]]
    return starts[edge] + (ends[edge] - starts[edge]) * (row - first) // (last - first)


def _placed(wanted: Mapping[Edge, int], boxes: Sequence[int]) -> dict[Edge, int]:
    """A place for each curve in the gaps between the boxes of a row, near where it wants to pass."""
    half = BOX // 2 + SPACE
    borders = [SPACE, *(x for centre in boxes for x in (centre - half, centre + half)), WIDTH - SPACE]
    gaps = list(zip(borders[::2], borders[1::2], strict=True))
    inside: dict[tuple[int, int], list[Edge]] = {}
    for edge, x in wanted.items():
        gap = min(gaps, key=lambda each: max(each[0] - x, x - each[1], 0))
        inside.setdefault(gap, []).append(edge)
    found: dict[Edge, int] = {}
    for (left, right), own in inside.items():
        own.sort(key=lambda edge: (wanted[edge], edge))
        places = [min(max(wanted[edge], left), right) for edge in own]
        for number in range(1, len(places)):
            places[number] = max(places[number], places[number - 1] + SPACE)
        over = max(0, places[-1] - right)
        for number in reversed(range(len(places))):
            limit = right if number == len(places) - 1 else places[number + 1] - SPACE
            places[number] = min(places[number], limit) if over else places[number]
        found |= dict(zip(own, places, strict=True))
    return found


def _curve(points: Sequence[tuple[int, int]], edge: Edge, row_of: Mapping[str, int]) -> str:
    (x, y), (tip, end) = points[0], points[-1]
    path = f"M{x} {y}"
    for (x1, y1), (x2, y2) in pairwise([*points[:-1], (tip, end - 6)]):
        bend = (y2 - y1) // 2
        path += f" L{x2} {y2}" if x1 == x2 else f" C{x1} {y1 + bend} {x2} {y2 - bend} {x2} {y2}"
    down = row_of[edge[0]] < row_of[edge[1]]
    colour = COLOURS[row_of[edge[0]] % len(COLOURS)] if down else "#ff0000"
    head = f"{tip},{end} {tip - 4},{end - 7} {tip + 4},{end - 7}"
    return (
        f'<g stroke="{colour}" fill="{colour}"><title>{edge[0]} imports {edge[1]}</title>'
        f'<path d="{path}" fill="none" stroke-width="1.4"/><polygon points="{head}" stroke="none"/></g>'
    )
