"""A real MCP server in its own process, which a test can start, kill and restart on the same port."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from typing import Any, Final, Self

from tests.fakes.mcp_server import PATHS, TOOLS
from tests.harness.instance import free_port

STOP_WITHIN: Final = 10.0  # seconds


class McpProcess:
    """`python -m tests.fakes.mcp_server`. Use as a context manager, which does not start it."""

    def __init__(self, transport: str, name: str = "fake", *, token: str = "", delay: float = 0.0) -> None:
        self.transport: Final = transport
        self.name: Final = name
        self.port: Final = free_port()
        self.tools: Sequence[str] = TOOLS
        self._token: Final = token
        self._delay: Final = delay
        self._process: subprocess.Popen[str] | None = None
        self._held: Final[list[subprocess.Popen[str]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for process in self._held:
            process.kill()
            process.communicate()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PATHS[self.transport]}"

    @property
    def settings(self) -> dict[str, Any]:
        """The server's entry in `mcp_servers`."""
        return {"url": self.url, "transport": self.transport}

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def launch(self) -> Self:
        """Start the process and return at once."""
        assert self._process is None, "the server is already running"
        self._process = self._spawn()
        return self

    def _spawn(self, *more: str) -> subprocess.Popen[str]:
        options = {"transport": self.transport, "port": self.port, "name": self.name, "token": self._token}
        options |= {"delay": self._delay, "tools": ",".join(self.tools)}
        command = [sys.executable, "-m", "tests.fakes.mcp_server"]
        command += [f"--{key}={value}" for key, value in options.items()]
        pipe = subprocess.PIPE
        return subprocess.Popen([*command, *more], stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def start(self) -> Self:
        """Start the process, and wait until it listens."""
        self.launch()
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == self.url
        return self

    def hold(self) -> None:
        """Start a process that `replace` needs; it loads its modules, and waits."""
        self._held.append(self._spawn("--held"))

    def replace(self) -> None:
        """Kill the process, and let the next one that is held take its place. The server is away briefly."""
        successor = self._held[0]
        assert successor.stdin is not None
        assert successor.stdout is not None
        assert successor.stdout.readline().strip() == "held"
        self.kill()
        self._process = self._held.pop(0)
        successor.stdin.close()
        successor.stdin = None  # for `communicate`
        assert successor.stdout.readline().strip() == self.url

    def kill(self) -> None:
        """Send SIGKILL if the process runs."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def stop(self) -> str:
        """Send SIGTERM; return what the process has printed to stderr."""
        assert self._process is not None
        self._process.terminate()
        _, errors = self._process.communicate(timeout=STOP_WITHIN)
        self._process = None
        return errors

    def offer(self, tools: Sequence[str]) -> None:
        """Change the tools of the running server."""
        self.tools = tools
        self._fetch("/tools", json.dumps(tools).encode())

    def refuse(self, status: int, what: str = "") -> None:
        """Answer with this status from now on: calls of the tool `what`, a JSON-RPC method, or everything."""
        self._fetch("/refuse", json.dumps({"status": status, "what": what}).encode())

    def accept(self) -> None:
        """End `refuse`."""
        self._fetch("/refuse", b"{}")

    def asked(self, what: str) -> int:
        """Return how often a tool, or `list_tools`, was called since the last start."""
        return int(self._fetch("/stats")["asked"].get(what, 0))

    def running(self, tool: str) -> int:
        """Return the number of calls of a tool that are in progress."""
        return int(self._fetch("/stats")["running"].get(tool, 0))

    def _fetch(self, path: str, body: bytes | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self._token}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)
