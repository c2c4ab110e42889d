"""The other end of the control socket: asks a running instance, for the operator's commands.

Blocking, and with nothing but the standard library, so that a command answers at once.
"""

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from agentscope_supervisor.system import instance_dir
from agentscope_supervisor.system.instance_dir import Address

ANSWER_WITHIN: Final = (
    10.0  # seconds, of an instance that is well; waiting for what takes longer is asked for
)


class Unanswered(Exception):
    """The instance did not answer, or refused; the text is for a person."""


class _Connection(http.client.HTTPConnection):
    """HTTP to the control socket of an instance."""

    def __init__(self, root: Path, name: str, timeout: float | None) -> None:
        super().__init__("control", timeout=timeout)
        self._place = root, name

    def connect(self) -> None:
        self.sock: socket.socket = instance_dir.connect(*self._place)
        self.sock.settimeout(self.timeout)


class ControlClient:
    """Asks one instance; `root` is the runtime directory that it was found in."""

    def __init__(self, root: Path, address: Address) -> None:
        self._root: Final = root
        self.address: Final = address

    def get(self, path: str, **query: str) -> Any:
        """What is known. Raises: Unanswered."""
        return json.loads(self._request("GET", _with(path, query), None, ANSWER_WITHIN).read())

    def post(self, path: str, *, within: float | None = ANSWER_WITHIN, **fields: object) -> Any:
        """Have something done. `within`: seconds; None, as long as it takes. Raises: Unanswered."""
        try:
            return json.loads(self._request("POST", path, json.dumps(fields).encode(), within).read())
        except (OSError, http.client.HTTPException):
            raise Unanswered("the instance ended before it answered") from None

    def lines(self, path: str, **query: str) -> Iterator[bytes]:
        """Lines of a log, as they come. Raises: Unanswered."""
        response = self._request("GET", _with(path, query), None, None)
        try:
            while line := response.readline():
                yield line
        except (OSError, http.client.HTTPException):
            raise Unanswered("the instance has ended") from None

    def wait_end(self) -> None:
        """Block until the instance has ended."""
        instance_dir.wait_end(self._root, self.address.name)

    def _request(
        self, method: str, path: str, body: bytes | None, timeout: float | None
    ) -> http.client.HTTPResponse:
        connection = _Connection(self._root, self.address.name, timeout)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
        except PermissionError:
            raise Unanswered("only the user of the instance, and root, may do this") from None
        except (OSError, http.client.HTTPException) as error:
            if self.address not in instance_dir.running(self._root):
                raise Unanswered(f"the instance {self.address.name!r} has ended") from None
            told = f"the instance {self.address.name!r} (pid {self.address.pid}) does not answer"
            raise Unanswered(f"{told}: {error or type(error).__name__}") from None
        if response.status != 200:
            raise Unanswered(str(json.loads(response.read())["error"]["message"]))
        return response


def _with(path: str, query: dict[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path
