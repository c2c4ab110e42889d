"""The environments of what we are compared with, and of the sampler: one for each, made on first use.

They lie in a cache folder, not in the repository and not in our own environment. Each has the AgentScope
of the environment that measures, so that all make and write the same messages; agentscope-runtime has the
1.x that it needs. nginx and HAProxy come from the system.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

INSTALL_WITHIN: Final = 900.0  # seconds; agentscope-runtime brings two hundred packages

AGENTSCOPE: Final = f"agentscope=={version('agentscope')}"
V1: Final = (
    "agentscope>=1.0.21,<2",
    "mcp>=1.23,<2",
    "openai<3.25",
    "anthropic<1",
    "sqlalchemy[asyncio]",
    "tqdm",
)


class NotThere(Exception):
    """A peer cannot be had on this machine; the text says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """What is installed for a peer; `told`: the packages whose versions its results are for."""

    packages: Sequence[str]
    told: Sequence[str]


PEERS: Final = {
    "uvicorn": Peer((AGENTSCOPE, "fastapi", "uvicorn[standard]"), ("fastapi", "uvicorn")),
    "gunicorn": Peer(
        (AGENTSCOPE, "fastapi", "uvicorn[standard]", "gunicorn", "uvicorn-worker"),
        ("fastapi", "uvicorn", "gunicorn"),
    ),
    "granian": Peer((AGENTSCOPE, "fastapi", "granian[uvloop]"), ("fastapi", "granian")),
    "aiohttp": Peer((AGENTSCOPE, "aiohttp", "uvloop"), ("aiohttp", "uvloop")),
    "runtime": Peer(("agentscope-runtime", *V1), ("agentscope-runtime", "agentscope", "uvicorn")),
    "py-spy": Peer(("py-spy",), ("py-spy",)),
}


class Environments:
    """The peers' environments below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder: Final = folder

    def bin(self, peer: str) -> Path:
        """Where a peer's commands are. Makes its environment if it is not whole. Raises: NotThere."""
        folder = self._folder / peer
        whole = folder / ".installed"
        wanted = "\n".join(PEERS[peer].packages)
        if not whole.exists() or whole.read_text("utf-8") != wanted:
            print(f"installing {peer} into {folder}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            run(os.environ.get("PYTHON", "python3"), "-m", "venv", "--without-pip", str(folder))
            run(*installer(folder / "bin" / "python"), *PEERS[peer].packages)
            whole.write_text(wanted, "utf-8")
        return folder / "bin"

    def versions(self, peer: str) -> dict[str, str]:
        """Of the packages that are told. Raises: NotThere."""
        script = "import importlib.metadata as m, sys; [print(p, m.version(p)) for p in sys.argv[1:]]"
        told = run(str(self.bin(peer) / "python"), "-c", script, *PEERS[peer].told)
        return dict(line.split(" ") for line in told.splitlines())


def installer(python: Path) -> Sequence[str]:
    """As in Makefile: uv where it is, else pip from outside, as the environment has none."""
    if shutil.which("uv"):
        return ("uv", "pip", "install", "-q", "--python", str(python))
    outside = os.environ.get("PYTHON", "python3")
    return (outside, "-m", "pip", "--python", str(python), "install", "-q", "--disable-pip-version-check")


def proxy(name: str) -> str:
    """The path of haproxy or nginx. Raises: NotThere."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise NotThere(f"{name} is not installed; `make balancers` does, where apt may")
    return found


def proxy_version(name: str) -> str:
    """Of haproxy or nginx: the first word of what it says that begins with a digit. Raises: NotThere."""
    told = subprocess.run([proxy(name), "-v"], capture_output=True, text=True, check=False)
    words = (told.stdout + told.stderr).replace("/", " ").split()
    return next((word for word in words if word[0].isdigit()), "?")


def run(*command: str) -> str:
    """What a command prints. Raises: NotThere, with its last words, when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_WITHIN, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotThere(str(error)) from None
    if done.returncode != 0:
        raise NotThere(f"{' '.join(command[:4])} …: {done.stderr.strip()[-400:]}")
    return done.stdout
