"""Releases of the client library redis, for tests: the oldest that is supported, and the newest.

`make redis` installs each into a folder of its own in the cache. A process that has the folder first on
PYTHONPATH uses that release instead of the installed one.
"""

import os
from pathlib import Path
from typing import Final

RELEASES: Final = ("5.0.1", "8.1.0")
"""The minimum in pyproject.toml, and the newest."""


def folder(release: str) -> str:
    """The folder with this release. Raises: AssertionError if it is not installed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = cache / "agentscope-supervisor" / "redis-py" / release
    assert (found / "redis").is_dir(), f"the package redis {release} is not in {found}; run `make redis`"
    return str(found)
