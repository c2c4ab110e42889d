"""Pictures of README and of docs/: there, small, and all of them shown. `make screenshots` takes README's."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
MOST = 150 * 1024  # bytes


def test_each_picture_is_there_and_small_and_none_is_left_over() -> None:
    shown = {
        page.parent / name
        for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
        for name in re.findall(r"[(\"]((?:docs/)?images/[\w/-]+\.(?:png|svg))[)\"]", page.read_text("utf-8"))
    }
    assert shown == {path for path in IMAGES.rglob("*") if path.is_file()}
    for path in shown:
        image = path.read_bytes()
        assert image.startswith({".png": b"\x89PNG", ".svg": b"<svg"}[path.suffix]), path
        assert len(image) < MOST, path
