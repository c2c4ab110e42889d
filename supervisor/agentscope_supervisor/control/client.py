"""The client of the control socket, for the operator's commands.

Blocking, and built on the standard library only, so that a command starts fast. It prints nothing: `cli`
turns results and errors into output. The other side is `control.server`.
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

ANSWER_WITHIN: Final = 10.0
"""Seconds in which a healthy instance answers.

Commands that wait for a rollout or a drain pass None instead.
"""


class ControlError(Exception):
    """The instance did not answer, or refused the request. The text is meant for the operator."""


class _Connection(http.client.HTTPConnection):
    """An HTTP connection to the control socket of an instance."""

    def __init__(self, root: Path, name: str, timeout: float | None) -> None:
        super().__init__("control", timeout=timeout)
        self._instance = root, name

    def connect(self) -> None:
        self.sock: socket.socket = instance_dir.connect(*self._instance)
        self.sock.settimeout(self.timeout)


class ControlClient:
    """Sends requests to one instance. `root`: the runtime directory in which the instance was found."""

    def __init__(self, root: Path, address: Address) -> None:
        self._root: Final = root
        self.address: Final = address

    def get(self, path: str, **query: str) -> Any:
        """Return the JSON answer to a GET. Raises: ControlError."""
        return json.loads(self._request("GET", _with(path, query), None, ANSWER_WITHIN).read())

    def post(self, path: str, *, within: float | None = ANSWER_WITHIN, **fields: object) -> Any:
        """Send a POST and return its JSON answer.

        `within`: seconds to wait for the answer; None waits without limit. Raises: ControlError.
        """
        try:
            return json.loads(self._request("POST", path, json.dumps(fields).encode(), within).read())
        except (OSError, http.client.HTTPException):
            raise ControlError("the instance exited before it answered") from None

    def lines(self, path: str, **query: str) -> Iterator[bytes]:
        """Yield log lines as the instance sends them. Raises: ControlError."""
        response = self._request("GET", _with(path, query), None, None)
        try:
            while line := response.readline():
                yield line
        except (OSError, http.client.HTTPException):
            raise ControlError("the instance has exited") from None

    def wait_end(self) -> None:
        """Block until the instance has exited."""
        instance_dir.wait_end(self._root, self.address.name)

    def _request(
        self, method: str, path: str, body: bytes | None, timeout: float | None
    ) -> http.client.HTTPResponse:
        connection = _Connection(self._root, self.address.name, timeout)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
        except PermissionError:
            raise ControlError(
                "permission denied: only root and the user that runs the instance may use its control socket"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            if self.address not in instance_dir.running(self._root):
                raise ControlError(f"the instance {self.address.name!r} has exited") from None
            silent = f"the instance {self.address.name!r} (pid {self.address.pid}) does not answer"
            raise ControlError(f"{silent}: {error or type(error).__name__}") from None
        if response.status != 200:
            raise ControlError(str(json.loads(response.read())["error"]["message"]))
        return response


def _with(path: str, query: dict[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path
