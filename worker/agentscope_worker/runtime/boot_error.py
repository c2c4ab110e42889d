"""The error that reports why a worker cannot start.

Owns the distinction between permanent failures and those that a retry may fix, and the pip command in error
messages. It must not refer to AgentScope. This package raises it; `agentscope_worker.host` catches it.
"""

import sys


class BootError(Exception):
    """A worker cannot become ready.

    Attributes:
        message: The failure, its place, and what was expected, written for the author of the project.
        permanent: Whether a retry with the same files on the same installation must fail again.
    """

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.message = message
        self.permanent = permanent


def pip_install(*requirements: str) -> str:
    """The shell command that installs `requirements` into the running interpreter's environment."""
    wanted = " ".join(f'"{each}"' if set(each) & set("<>=!,[]") else each for each in requirements)
    return f"{sys.executable} -m pip install {wanted}"


def is_missing(error: ImportError, *packages: str) -> bool:
    """Whether `error` says that one of `packages`, in import names, is not installed.

    Any other ImportError has its cause in a package that is installed: a dependency of it is missing or too
    old, or it rejects the environment.
    """
    return isinstance(error, ModuleNotFoundError) and error.name in packages
