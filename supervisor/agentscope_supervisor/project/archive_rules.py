"""Which files of a project go into an archive: all but private, secret, and generated ones. Pure.

Decides by names and by text; it opens nothing. It cannot see a key that stands in code: only agentapp.yaml is
read for those, and a private key is told by its first line. `archive_write` walks the folder and asks here.
"""

import re
from fnmatch import fnmatchcase
from typing import Final

from agentscope_protocol.config.problems import Path, dotted
from agentscope_protocol.config.settings import Problem
from agentscope_protocol.config.yaml_reader import read

# Patterns of names, by why they stay out; the first that fits is told.
FOLDERS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("version control", (".git", ".hg", ".svn", ".jj")),
    ("environment", (".venv*", "venv", ".direnv", ".tox", ".nox", "node_modules")),
    ("cache", ("__pycache__", ".*_cache", ".cache", ".hypothesis", ".ipynb_checkpoints", "*.egg-info")),
    ("editor", (".idea", ".vscode")),
)
FILES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        "secret",
        (".env", ".env.*", ".envrc", "*.env", ".netrc", ".pypirc", "*.key", "*.p12", "*.pfx", "*.jks"),
    ),
    ("secret", ("id_rsa*", "id_ecdsa*", "id_ed25519*", "credentials.json", "*.kdbx")),
    ("version control", (".git",)),  # of a worktree, a file
    ("cache", ("*.pyc", "*.pyo", ".DS_Store", ".coverage*", "*~", "*.swp")),
)

KEY_WITHIN: Final = 4096  # bytes from the beginning of a file in which a private key begins
_PRIVATE_KEY: Final = re.compile(rb"^-----BEGIN [A-Z ]*PRIVATE KEY-----", re.MULTILINE)

_CREDENTIAL: Final = re.compile(
    r"(?:^|[_-])(?:key|token|secret|password|authorization|cookie)$", re.IGNORECASE
)
_IN_URL: Final = re.compile(
    r"://[^/?#\s]*:[^/?#\s]+@|[?&][^=&]*(?:key|token|secret|password)=[^&]", re.IGNORECASE
)
_VARIABLE: Final = "\ufffc"  # stands for the value of each variable


def why_not(name: str, *, folder: bool) -> str | None:
    """Why what has this name stays out, wherever in the project it is; None: it does not."""
    for reason, patterns in FOLDERS if folder else FILES:
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return reason
    return None


def is_private_key(beginning: bytes) -> bool:
    """Whether a file that begins so, with up to KEY_WITHIN bytes, is somebody's private key."""
    return _PRIVATE_KEY.search(beginning) is not None


class _AllSet(dict[str, str]):
    """An environment in which each variable is set."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return _VARIABLE


def literal_secrets(text: str) -> list[Problem]:
    """The secrets that an agentapp.yaml holds itself, rather than by the name of a variable.

    What counts is the name of a key (api_key, token, Authorization, …) and a password in a URL. The text is
    one that can be loaded.
    """
    document, found = read(text, _AllSet()), []

    def look(value: object, path: Path) -> None:
        match value:
            case dict():
                for key, inner in value.items():
                    look(inner, (*path, key))
            case list():
                for index, inner in enumerate(value):
                    look(inner, (*path, index))
            case str() if value and _VARIABLE not in value and _is_secret(value, path):
                found.append(
                    Problem(
                        document.lines.get(path),
                        dotted(path),
                        "is a secret in plain text; write ${NAME}, and set that variable where it runs",
                    )
                )

    look(document.data, ())
    return found


def _is_secret(value: str, path: Path) -> bool:
    name = next((part for part in reversed(path) if isinstance(part, str)), "")
    return bool(_CREDENTIAL.search(name) or _IN_URL.search(value))
