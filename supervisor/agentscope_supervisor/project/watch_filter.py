"""Which changed files of a project replace the workers. Pure.

A change matters if a worker would read the file at its start: code, configuration, `.env`, prompt templates.
Files that an app or a tool writes while it runs must not matter, or every turn would replace its worker:
data, logs, caches, environments, and temporary files of editors. Workers report which files they have opened
for writing. The section `reload` of the configuration decides where these rules are wrong. `watcher` watches
the folder.
"""

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Final

SUFFIXES: Final = frozenset({".py", ".yaml", ".yml", ".toml", ".j2", ".jinja", ".jinja2"})

IGNORED_FOLDERS: Final = frozenset(
    {"__pycache__", "node_modules", "site-packages", "venv", "sessions", "typings"}
)
"""Folders with generated files. Folders that start with a dot and the folder of sessions are ignored too."""

DATA_FOLDERS: Final = frozenset(
    {"artifacts", "data", "logs", "output", "outputs", "temp", "tmp", "workspace"}
)
"""Folders at the top of a project to which apps usually write."""

SHOWN: Final = 3  # names of changed files in a log line


class WatchFilter:
    """The filter of one project. `config` and `save_dir` (of sessions) are relative to `folder`.

    `include` and `exclude` are patterns with `*` and `?`. A pattern without a slash stands for each file or
    folder of that name, another pattern for a path in the project. A folder stands for all files in it.
    """

    def __init__(
        self,
        folder: PurePath,
        config: PurePath,
        save_dir: PurePath,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
    ) -> None:
        self._folder: Final = folder
        self._config: Final = folder / config
        self._save_dir: Final = folder / save_dir
        self._include: Final = tuple(include)
        self._exclude: Final = tuple(exclude)

    def matters(self, path: PurePath, written: Collection[PurePath] = ()) -> bool:
        """Return whether a change of this file, an absolute path, replaces the workers.

        `written`: the files that workers have opened for writing.
        """
        if path == self._config:
            return True
        if not path.is_relative_to(self._folder):
            return False
        parts = path.relative_to(self._folder).parts
        *folders, name = parts
        if any(folder.startswith(".") or folder in IGNORED_FOLDERS for folder in folders):
            return False
        if _match(parts, self._exclude) or _match(parts, self._include):
            return not _match(parts, self._exclude)
        # With `save_dir: .` the folder of sessions is the project itself, and its code still matters.
        if self._save_dir != self._folder and path.is_relative_to(self._save_dir):
            return False
        if path in written or (folders and folders[0] in DATA_FOLDERS):
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


def _match(parts: tuple[str, ...], patterns: Iterable[str]) -> bool:
    paths = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    for pattern in patterns:
        wanted = pattern.removeprefix("./").strip("/")
        among = paths if "/" in pattern.rstrip("/") else parts
        if any(fnmatchcase(each, wanted) for each in among):
            return True
    return False
