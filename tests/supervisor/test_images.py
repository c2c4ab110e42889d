"""README's pictures: there, small, and all of them shown. `make screenshots` takes them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST = 150 * 1024  # bytes


def test_each_picture_of_readme_is_there_and_small_and_none_is_left_over() -> None:
    shown = set(re.findall(r"docs/images/[\w-]+\.png", (ROOT / "README.md").read_text("utf-8")))
    kept = {str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "images").iterdir()}
    assert shown == kept
    for name in shown:
        image = (ROOT / name).read_bytes()
        assert image.startswith(b"\x89PNG")
        assert len(image) < MOST, name
