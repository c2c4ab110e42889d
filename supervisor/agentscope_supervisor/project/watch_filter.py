"""Which files of a project are its author's work, so that a change of one brings new workers. Pure.

A change counts where a worker would read something else at its start: code, configuration, `.env`, templates
of prompts. What an App or a tool writes while it runs must not count, or each turn would replace its worker:
data and logs, caches, environments, what editors keep beside a file.
"""

from collections.abc import Collection
from pathlib import PurePath
from typing import Final

SUFFIXES: Final = frozenset({".py", ".yaml", ".yml", ".toml", ".j2", ".jinja", ".jinja2"})

NOT_WORK: Final = frozenset({"__pycache__", "node_modules", "site-packages", "venv", "sessions", "typings"})
"""Folders of what is made, not written; so are those that begin with a dot, and the store of sessions."""

SHOWN: Final = 3  # names of changed files in a log line


class WatchFilter:
    """The files of one project. `config` and `save_dir` (of sessions) as agentapp.yaml's folder has them."""

    def __init__(self, folder: PurePath, config: PurePath, save_dir: PurePath) -> None:
        self._folder: Final = folder
        self._config: Final = folder / config
        self._save_dir: Final = folder / save_dir

    def matters(self, path: PurePath) -> bool:
        """Whether a change of this file, an absolute path, brings new workers."""
        if path == self._config:
            return True
        if not path.is_relative_to(self._folder):
            return False
        # `save_dir: .` is the project itself, whose code is in it all the same.
        if self._save_dir != self._folder and path.is_relative_to(self._save_dir):
            return False
        *folders, name = path.relative_to(self._folder).parts
        if any(folder.startswith(".") or folder in NOT_WORK for folder in folders):
            return False
        if name.startswith("."):
            return name == ".env" or name.startswith(".env.")
        return path.suffix in SUFFIXES

    def told(self, paths: Collection[PurePath]) -> str:
        """These files, for a log line: the first few."""
        names = sorted({str(self._shown(path)) for path in paths})
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return ", ".join(names[:SHOWN]) + more

    def _shown(self, path: PurePath) -> PurePath:
        return path.relative_to(self._folder) if path.is_relative_to(self._folder) else path
