"""Which changed files of a project replace the workers. Pure.

A change matters if a worker would read the file at its start: code, configuration, `.env`, prompt templates.
Files that an app or a tool writes while it runs must not matter, or every turn would replace its worker:
data, logs, caches, environments, and temporary files of editors. `watcher` watches the folder.
"""

from collections.abc import Collection
from pathlib import PurePath
from typing import Final

SUFFIXES: Final = frozenset({".py", ".yaml", ".yml", ".toml", ".j2", ".jinja", ".jinja2"})

IGNORED_FOLDERS: Final = frozenset(
    {"__pycache__", "node_modules", "site-packages", "venv", "sessions", "typings"}
)
"""Folders with generated files. Folders that start with a dot and the folder of sessions are ignored too."""

SHOWN: Final = 3  # names of changed files in a log line


class WatchFilter:
    """The filter of one project. `config` and `save_dir` (of sessions) are relative to `folder`."""

    def __init__(self, folder: PurePath, config: PurePath, save_dir: PurePath) -> None:
        self._folder: Final = folder
        self._config: Final = folder / config
        self._save_dir: Final = folder / save_dir

    def matters(self, path: PurePath) -> bool:
        """Return whether a change of this file, an absolute path, replaces the workers."""
        if path == self._config:
            return True
        if not path.is_relative_to(self._folder):
            return False
        # With `save_dir: .` the folder of sessions is the project itself, and its code still matters.
        if self._save_dir != self._folder and path.is_relative_to(self._save_dir):
            return False
        *folders, name = path.relative_to(self._folder).parts
        if any(folder.startswith(".") or folder in IGNORED_FOLDERS for folder in folders):
            return False
        if name.startswith("."):
            return name == ".env" or name.startswith(".env.")
        return path.suffix in SUFFIXES

    def summary(self, paths: Collection[PurePath]) -> str:
        """Return the first few of these files as text, for a log line."""
        names = sorted({str(self._shown(path)) for path in paths})
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return ", ".join(names[:SHOWN]) + more

    def _shown(self, path: PurePath) -> PurePath:
        return path.relative_to(self._folder) if path.is_relative_to(self._folder) else path
