"""A flame graph as an SVG: each box a function, as wide as its share, on the one that called it. Pure.

By hand, because it is rectangles and text, and other writers bring scripts and ten times the bytes. The same
stacks give the same bytes. The boxes bear their own colours, the rest is legible on a light and a dark page;
opened by itself, it tells the whole name and the share of what the mouse is on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Final

from tests.benchmarks.folded import Frame, Place, Stacks, by_place

WIDTH: Final = 1000  # pixels
ROW: Final = 17
TOP: Final = 48  # for the title and what the colours mean
LETTER: Final = 6.2  # pixels, about, of the font below
THIN: Final = 0.003  # share below which a box is left out: three pixels
TEXT: Final = "#8b949e"

COLOURS: Final[Mapping[Place, str]] = {
    Place.OURS: "#79b8ff",
    Place.AIOHTTP: "#f9c97c",
    Place.LOOP: "#b7e1a1",
    Place.AGENTSCOPE: "#d8b4f8",
    Place.JSON: "#f7e36d",
    Place.KERNEL: "#f4a09a",
    Place.REST: "#d0d7de",
}

STYLE: Final = "".join(f".{place.name.lower()}{{fill:{colour}}}" for place, colour in COLOURS.items())


@dataclass(slots=True)
class Node:
    """A function at one place of the tree."""

    weight: float = 0.0
    inner: dict[Frame, "Node"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Box:
    """Shares of the whole; `depth` 0: at the bottom."""

    frame: Frame
    left: float
    share: float
    depth: int


def tree(stacks: Stacks) -> Node:
    """Its root stands for all stacks."""
    root = Node()
    for stack, weight in stacks.items():
        node = root
        node.weight += weight
        for frame in stack:
            node = node.inner.setdefault(frame, Node())
            node.weight += weight
    return root


def boxes(node: Node, whole: float, left: float = 0.0, depth: int = 0) -> Iterator[Box]:
    """Those that are not too thin; of neighbours the widest first."""
    for frame, inner in sorted(node.inner.items(), key=lambda each: (-each[1].weight, each[0].full)):
        share = inner.weight / whole
        if share >= THIN:
            yield Box(frame, left, share, depth)
            yield from boxes(inner, whole, left, depth + 1)
        left += share


def drawing(title: str, stacks: Stacks) -> str:
    """The whole file."""
    root = tree(stacks)
    found = list(boxes(root, root.weight))
    height = TOP + ROW * (1 + max((box.depth for box in found), default=0)) + 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="11" fill="#1f2328">\n<style>{STYLE}</style>\n'
        f'<text x="4" y="15" font-size="13" font-weight="bold" fill="{TEXT}">{escape(title)}</text>\n'
        + "".join(legend(stacks))
        + "".join(drawn(box, height) for box in found)
        + "</svg>\n"
    )


def legend(stacks: Stacks) -> Iterator[str]:
    """What the colours mean, of the places that have any time."""
    left = 4.0
    for place, share in by_place(stacks).items():
        if share >= THIN:
            text = f"{place} {share:.0%}"
            yield f'<rect x="{left:.0f}" y="26" width="11" height="11" class="{place.name.lower()}"/>'
            yield f'<text x="{left + 15:.0f}" y="36" fill="{TEXT}">{escape(text)}</text>\n'
            left += 15 + len(text) * LETTER + 16


def drawn(box: Box, height: int) -> str:
    """One function."""
    left, width = box.left * WIDTH, box.share * WIDTH
    top = height - 4 - ROW * (box.depth + 1)
    letters = int((width - 5) / LETTER)
    name = box.frame.name if box.frame.name != "compiled" else box.frame.full
    name = name if len(name) <= letters else name[: letters - 1] + "…"
    text = f'<text x="{left + 3:.1f}" y="{top + 12}">{escape(name)}</text>' if letters >= 3 else ""
    return (
        f"<g><title>{escape(box.frame.full)}, {box.share:.1%}</title>"
        f'<rect x="{left:.1f}" y="{top}" width="{max(width - 0.5, 0.5):.1f}" height="{ROW - 1}" '
        f'class="{box.frame.place.name.lower()}"/>{text}</g>\n'
    )
