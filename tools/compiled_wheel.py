"""Prints the path of the compiled wheel of these sources; builds the wheel unless the cache has it.

    python tools/compiled_wheel.py

The cache is `agentscope-supervisor/wheels` in the user's cache directory. A wheel is found there by a hash of
the sources, of what builds them, and of the Python that runs this. Needs the standard library and pip only.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCES: Final = ("protocol", "supervisor", "worker", "configs", "pyproject.toml", "hatch_build.py")
KEPT: Final = 5  # wheels, of which each has about 3 MB


def main() -> int:
    print(cached(cache_folder()))
    return 0


def cache_folder() -> Path:
    """Where the wheels of this user are."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "agentscope-supervisor", "wheels")


def cached(cache: Path) -> Path:
    """The wheel of these sources, built if need be. Raises: subprocess.CalledProcessError."""
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / fingerprint(ROOT)
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=cache) as built:
            build(Path(built, "wheel"))
            try:
                Path(built, "wheel").rename(folder)
            except OSError:  # another process was faster
                if not folder.exists():
                    raise
    folder.touch()
    forget_the_oldest(cache)
    (wheel,) = folder.glob("*.whl")
    return wheel


def fingerprint(root: Path) -> str:
    """A hash of all that decides what is in the wheel."""
    digest = hashlib.sha256()
    for word in (sys.version, sys.implementation.cache_tag, platform.machine(), sysconfig.get_platform()):
        digest.update(word.encode() + b"\0")
    for file in files(root):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:32]


def files(root: Path) -> Iterator[Path]:
    """The sources in one order, without what Python writes beside them."""
    for name in SOURCES:
        found = [root / name] if (root / name).is_file() else sorted((root / name).rglob("*"))
        yield from (each for each in found if each.is_file() and "__pycache__" not in each.parts)


def build(folder: Path) -> None:
    """Build the wheel into `folder`."""
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps"]
    variables = {**os.environ, "AGENTSCOPE_SUPERVISOR_COMPILE": "1"}
    subprocess.run([*pip, "-w", str(folder), str(ROOT)], env=variables, stdout=sys.stderr, check=True)


def forget_the_oldest(cache: Path) -> None:
    """Remove all wheels but those that were used last."""
    newest_first = sorted(cache.glob("?" * 32), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in newest_first[KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
