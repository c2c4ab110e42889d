"""A small SVG writer: boxes, arrows and text, readable on light and dark pages. Pure.

Coordinates are whole pixels, and nothing depends on a font or on the order of a set: the same input gives
the same bytes.
"""

from collections.abc import Sequence
from xml.sax.saxutils import escape

STYLE = """
  .panel { fill: #ffffff; stroke: #d0d7de }
  .box { fill: #eef2ff; stroke: #4f5fc4 }
  .band { fill: #f6f8fa; stroke: none }
  .line { fill: none; stroke: #6e7781; stroke-width: 1.2 }
  .head { fill: #6e7781 }
  .strong { stroke: #4f5fc4; stroke-width: 2 }
  .strong-head { fill: #4f5fc4 }
  text { font-family: system-ui, sans-serif; font-size: 13px; fill: #1f2328 }
  .name { font-weight: 600 }
  .small { font-size: 11px; fill: #57606a }
  @media (prefers-color-scheme: dark) {
    .panel { fill: #1e2129; stroke: #3d444d }
    .box { fill: #2b3050; stroke: #8f9df5 }
    .band { fill: #262a33 }
    .line { stroke: #9198a1 }
    .head { fill: #9198a1 }
    .strong { stroke: #8f9df5 }
    .strong-head { fill: #8f9df5 }
    text { fill: #e6edf3 }
    .small { fill: #b1bac4 }
  }
"""

Point = tuple[int, int]


def drawing(width: int, height: int, title: str, description: str, parts: Sequence[str]) -> str:
    """A whole picture on a panel of its own, so that its text is readable on any page."""
    body = "\n".join(f"  {part}" for part in parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" role="img" aria-labelledby="title description">\n'
        f'  <title id="title">{escape(title)}</title>\n'
        f'  <desc id="description">{escape(description)}</desc>\n'
        f"  <style>{STYLE}  </style>\n"
        f'  <rect class="panel" x="1" y="1" width="{width - 2}" height="{height - 2}" rx="8"/>\n'
        f"{body}\n</svg>\n"
    )


def box(x: int, y: int, width: int, height: int, kind: str = "box") -> str:
    """A rectangle with round corners; x and y are its upper left corner."""
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'


def text(x: int, y: int, words: str, kind: str = "", anchor: str = "middle") -> str:
    """One line of text. `anchor`: start, middle or end, where x is."""
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


def arrow(path: str, tip: Point, heading: str, kind: str = "") -> str:
    """A line along an SVG path with a head at its end. `heading`: right, left, down or up."""
    x, y = tip
    corners = {
        "right": f"{x},{y} {x - 7},{y - 4} {x - 7},{y + 4}",
        "left": f"{x},{y} {x + 7},{y - 4} {x + 7},{y + 4}",
        "down": f"{x},{y} {x - 4},{y - 7} {x + 4},{y - 7}",
        "up": f"{x},{y} {x - 4},{y + 7} {x + 4},{y + 7}",
    }[heading]
    line, head = ("line strong", "strong-head") if kind == "strong" else ("line", "head")
    return f'<path class="{line}" d="{path}"/><polygon class="{head}" points="{corners}"/>'
