"""Socket activation: finds the listening socket that the service manager has opened, see sd_listen_fds(3).

Checks whether the instance can serve on the socket. `cli.launch` reports the errors.
"""

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

FIRST: Final = 3  # first descriptor, by the convention of sd_listen_fds(3)

NAME: Final = "http"
"""FileDescriptorName= of the socket to serve on, if several sockets are passed."""

_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class ActivationError(Exception):
    """The instance cannot serve on the passed socket. The message is for the operator. Do not retry."""


def inherited(environ: Mapping[str, str], pid: int) -> socket.socket | None:
    """Return the listening socket that was passed to the process `pid`, or None if there is none.

    Call it once: the other sockets that were passed are closed.

    Raises: ActivationError.
    """
    if environ.get("LISTEN_PID") != str(pid) or environ.get("LISTEN_FDS", "0") == "0":
        return None
    try:
        fds = range(FIRST, FIRST + int(environ["LISTEN_FDS"]))
    except ValueError:
        raise ActivationError(f"LISTEN_FDS is not a number: {environ['LISTEN_FDS']!r}") from None
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    ours = [fd for fd, name in zip(fds, names, strict=False) if name == NAME] if len(fds) > 1 else list(fds)
    if len(ours) != 1:
        raise ActivationError(
            f"{len(fds)} sockets were passed, and {len(ours)} of them are named {NAME!r}: pass one socket, "
            f"or give one of them this name (FileDescriptorName={NAME})"
        )
    for fd in set(fds) - set(ours):
        with contextlib.suppress(OSError):
            os.close(fd)
    return _checked(ours[0])


def _checked(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise ActivationError(f"the passed descriptor {fd} is not a socket: {error.strerror}") from None
    if sock.family not in _FAMILIES or sock.type != socket.SOCK_STREAM:
        kind = f"{sock.family.name}, {sock.type.name}"
        sock.close()
        raise ActivationError(f"the passed socket is {kind}; a TCP or Unix stream socket is required")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise ActivationError("the passed socket does not listen (Accept=no is required)")
    return sock
