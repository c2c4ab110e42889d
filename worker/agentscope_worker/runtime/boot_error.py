"""The one error that says why a worker cannot start.

It owns the split between "nobody needs to try this again" and "the next try may work", and the
form of a command that mends an installation. It knows nothing of AgentScope. Raised throughout
this package; `agentscope_worker.host` is where the worker catches it.
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
