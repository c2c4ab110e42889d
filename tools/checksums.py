"""Writes SHA256SUMS of the files in a folder, in the form that `sha256sum --check` reads.

python -m tools.checksums dist
"""

import hashlib
import sys
from pathlib import Path
from typing import Final

NAME: Final = "SHA256SUMS"


def lines(folder: Path) -> list[str]:
    """Return one line for each file, except for the list itself."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != NAME)
    return [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]


if __name__ == "__main__":
    target = Path(sys.argv[1])
    (target / NAME).write_text("".join(lines(target)), "utf-8")
