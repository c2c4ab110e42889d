"""Which files of a project an archive contains: all except private, secret and generated ones. Pure.

Decides by names and by content that the caller passes; opens no file. It does not find a key that is written
into code: only agentapp.yaml is searched for secrets, and a private key is recognised by its first line.
`archive_write` walks the folder and applies these rules.
"""

import re
from fnmatch import fnmatchcase
from typing import Final

from agentscope_protocol.config.problems import Path, dotted
from agentscope_protocol.config.settings import Problem
from agentscope_protocol.config.yaml_reader import read

# Reason -> patterns of names that are left out; the first match gives the reason that is printed.
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
    # Locks, and states that were damaged; states in any folder are recognised by their beginning.
    ("sessions", (".lock-[0-9][0-9]", "[0-9a-f]" * 64 + ".*.corrupt")),
    ("version control", (".git",)),  # in a worktree it is a file
    ("cache", ("*.pyc", "*.pyo", ".DS_Store", ".coverage*", "*~", "*.swp")),
)

KEY_WITHIN: Final = 4096  # bytes at the start of a file that are searched for a private key
# The first member of the worker's session files. Their names may also be those of a project's own files.
_SESSION: Final = re.compile(
    rb'\{("save":\d+,("by":"[0-9a-f]+",)?)?\s*"format":\s?"agentscope-supervisor session"'
)
_PRIVATE_KEY: Final = re.compile(rb"^-----BEGIN [A-Z ]*PRIVATE KEY-----", re.MULTILINE)

_CREDENTIAL: Final = re.compile(
    r"(?:^|[_-])(?:key|token|secret|password|authorization|cookie)$", re.IGNORECASE
)
_IN_URL: Final = re.compile(
    r"://[^/?#\s]*:[^/?#\s]+@|[?&][^=&]*(?:key|token|secret|password)=[^&]", re.IGNORECASE
)
_VARIABLE: Final = "\ufffc"  # the placeholder for the value of each variable


def why_not(name: str, *, folder: bool) -> str | None:
    """Return why a file or folder with this name is left out; None if it is packed."""
    for reason, patterns in FOLDERS if folder else FILES:
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return reason
    return None


def is_private_key(beginning: bytes) -> bool:
    """Return whether a file that starts with these bytes, up to KEY_WITHIN of them, is a private key."""
    return _PRIVATE_KEY.search(beginning) is not None


def is_session(beginning: bytes) -> bool:
    """Return whether a file that starts with these bytes is the stored state of a session."""
    return _SESSION.match(beginning) is not None


class _AllSet(dict[str, str]):
    """An environment in which every variable is set."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return _VARIABLE


def literal_secrets(text: str) -> list[Problem]:
    """Return the secrets that an agentapp.yaml contains in plain text instead of as a variable.

    Found by the name of a key (api_key, token, Authorization, …) and as a password in a URL. `text`: a
    configuration that can be loaded.
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
                        "is a secret in plain text; write ${NAME} and set that variable where the app runs",
                    )
                )

    look(document.data, ())
    return found


def _is_secret(value: str, path: Path) -> bool:
    name = next((part for part in reversed(path) if isinstance(part, str)), "")
    return bool(_CREDENTIAL.search(name) or _IN_URL.search(value))
