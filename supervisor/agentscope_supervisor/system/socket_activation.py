"""A listening socket that was opened for us before we began: socket activation, sd_listen_fds(3).

Finds it and looks whether it can be served on. What it says to the outside: `launch`.
"""

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

FIRST: Final = 3  # descriptor, by the convention

NAME: Final = "http"
"""FileDescriptorName= of ours where several sockets are passed on."""

_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class ActivationError(Exception):
    """What was passed on cannot be served on; the text is for a person. Nothing to retry."""


def inherited(environ: Mapping[str, str], pid: int) -> socket.socket | None:
    """The listening socket that the environment promises to the process `pid`; None if there is no promise.

    To be called once: other sockets that were passed on are closed. Raises: ActivationError.
    """
    if environ.get("LISTEN_PID") != str(pid) or environ.get("LISTEN_FDS", "0") == "0":
        return None
    try:
        fds = range(FIRST, FIRST + int(environ["LISTEN_FDS"]))
    except ValueError:
        raise ActivationError(f"LISTEN_FDS is no number: {environ['LISTEN_FDS']!r}") from None
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    ours = [fd for fd, name in zip(fds, names, strict=False) if name == NAME] if len(fds) > 1 else list(fds)
    if len(ours) != 1:
        raise ActivationError(
            f"{len(fds)} sockets were passed on, and {len(ours)} of them are named {NAME!r}: pass on one, "
            f"or name one so (FileDescriptorName={NAME})"
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
        raise ActivationError(f"descriptor {fd} that was passed on is no socket: {error.strerror}") from None
    if sock.family not in _FAMILIES or sock.type != socket.SOCK_STREAM:
        kind = f"{sock.family.name}, {sock.type.name}"
        sock.close()
        raise ActivationError(f"the socket that was passed on is neither TCP nor a Unix stream, but {kind}")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise ActivationError("the socket that was passed on does not listen (Accept=no is needed)")
    return sock
