"""Starts an instance of a project, for `run` and `deploy` of its AgentApp outside of a worker.

In a worker neither is called: the worker takes the call as "this is the app" while it imports app.py.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final, NoReturn

POLL: Final = 0.1  # seconds between two requests to the readiness route


def serve(address: str, port: int) -> NoReturn:
    """Run an instance of the project in the place of this process.

    Raises: RuntimeError if this process does not run a project.
    """
    command = _command(address, port)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)


class Deployed:
    """An instance that a process of its own runs."""

    def __init__(self, address: str, port: int) -> None:
        reached = "127.0.0.1" if address in ("0.0.0.0", "::") else address
        self.url: Final = f"http://{reached}:{port}"
        self._process: Final = subprocess.Popen(_command(address, port), stdin=subprocess.DEVNULL)

    def stop_with_this_process(self) -> None:
        atexit.register(self._process.terminate)

    async def ready(self, within: float) -> None:
        """Wait until the instance accepts requests. Raises: RuntimeError after `within` seconds."""
        deadline = time.monotonic() + within
        while not await asyncio.to_thread(self._is_ready):
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"the instance has exited with status {self._process.returncode}; see its log"
                )
            if time.monotonic() > deadline:
                self._process.terminate()
                raise RuntimeError(f"the instance has not become ready within {within:g} s; see its log")
            await asyncio.sleep(POLL)

    async def stop(self, within: float) -> None:
        """Drain and stop the instance. Raises: subprocess.TimeoutExpired."""
        self._process.terminate()
        await asyncio.to_thread(self._process.wait, within)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _command(address: str, port: int) -> list[str]:
    """The command that starts an instance of the project of this process.

    Raises: RuntimeError if this process does not run a project.
    """
    main = sys.modules["__main__"]
    if (main.__spec__.name if main.__spec__ else "").startswith("agentscope_worker"):
        raise RuntimeError("a worker hosts this app already; it cannot start another server for it")
    if getattr(main, "__file__", None) is None:
        raise RuntimeError(
            "an AgentApp is run as an instance of its project: put it into app.py, and start it with "
            "`agentscope run`, or with `python app.py`"
        )
    program = Path(sys.executable).with_name("agentscope-supervisor")
    if not program.exists():
        raise RuntimeError(f"{program} does not exist; install agentscope-supervisor for this interpreter")
    project = Path(str(main.__file__)).resolve().parent
    return [str(program), "start", str(project), "--host", address, "--port", str(port)]
