"""Writes every generated page: `python -m tools.docs` (`make docs-reference`)."""

import sys

from tools.docs.pages import ROOT, fresh


def main() -> int:
    for name, text in fresh().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
