"""Pictures in README.md and in docs/: each exists, is small, and is shown. `make screenshots` takes them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MOST = 150 * 1024  # bytes
SHOWN = re.compile(r"[(\"]([\w./-]+\.(?:png|svg))[)\"]")


def test_each_picture_exists_and_is_small_and_none_is_left_over() -> None:
    shown = {
        (page.parent / name).resolve()
        for page in (ROOT / "README.md", *DOCS.rglob("*.md"))
        for name in SHOWN.findall(page.read_text("utf-8"))
    }
    assert shown == {path for ending in ("png", "svg") for path in DOCS.rglob(f"*.{ending}")}
    for path in shown:
        image = path.read_bytes()
        assert image.startswith({".png": b"\x89PNG", ".svg": b"<svg"}[path.suffix]), path
        assert len(image) < MOST, path
