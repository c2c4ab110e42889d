"""The reference platform in its own process, which a test can start, stop, and make give wrong answers."""

import json
import os
import subprocess
import sys
import urllib.request
from typing import Any, Final, Self

from tests.harness.instance import free_port


class PlatformProcess:
    """`python -m reference_platform`. Use as a context manager, which does not start it."""

    def __init__(self, *, bait: str = "", token: str = "") -> None:
        """`bait`: target of redirects. `token`: the token that instances must send."""
        self.port: Final = free_port()
        self.command: Final = [sys.executable, "-m", "reference_platform", "--port", str(self.port)]
        if bait:
            self.command += ["--bait", bait]
        self._variables: Final = {"PLATFORM_TOKEN": token} if token else {}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def endpoint(self) -> str:
        """The value of `platform.endpoint` for an instance."""
        return f"http://127.0.0.1:{self.port}/api"

    def start(self) -> Self:
        """Start the process, and wait until it listens."""
        assert self._process is None, "the platform is already running"
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **self._variables},
        )
        assert self._process.stdout is not None
        assert str(self.port) in self._process.stdout.readline()
        return self

    def kill(self) -> None:
        """Send SIGKILL if the process runs; connections are refused from then on."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def lie(self, name: str | None, only: str | None = None) -> None:
        """Give this wrong answer from now on; None: right answers."""
        self._fetch("/lie", {"lie": name, "only": only})

    def ask(self, instance_id: str, action: str) -> str:
        """Press a button of the page; return the version of the request."""
        version: str = self._fetch("/ask", {"id": instance_id, "action": action})["version"]
        return version

    @property
    def seen(self) -> dict[str, int]:
        """Number of requests of each exchange since the start, including those that got a wrong answer."""
        seen: dict[str, int] = self._fetch("/state")["seen"]
        return seen

    def instance(self, instance_id: str) -> dict[str, Any]:
        """Return what the page shows about an instance; empty before its first request."""
        found = self._fetch("/state")["instances"]
        return next((each for each in found if each["id"] == instance_id), {})

    def _fetch(self, path: str, body: object = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        url, headers = f"http://127.0.0.1:{self.port}{path}", {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10) as response:
            return json.load(response)
