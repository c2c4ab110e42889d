"""HAProxy and nginx with the shipped files, in which only the addresses are changed."""

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

import pytest

from tests.harness.instance import free_port
from tests.harness.waiting import wait_until

CONFIGS: Final = Path(__file__).parents[2] / "configs"
LISTENS_WITHIN: Final = 20.0  # seconds; 0.1 s on an idle machine

_NGINX: Final = """
daemon off;
pid {folder}/pid;
error_log {folder}/log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


def _haproxy(folder: Path, port: int, servers: Sequence[int]) -> list[str]:
    file = folder / "haproxy.cfg"
    file.write_text(
        _placed((CONFIGS / "haproxy.cfg").read_text("utf-8"), "bind :80", f"bind 127.0.0.1:{port}", servers)
    )
    return ["-db", "-f", str(file)]


def _nginx(folder: Path, port: int, servers: Sequence[int]) -> list[str]:
    text = (CONFIGS / "nginx.conf").read_text("utf-8")
    (folder / "site.conf").write_text(_placed(text, "listen 80;", f"listen 127.0.0.1:{port};", servers))
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder))
    return ["-p", str(folder), "-e", str(folder / "log"), "-c", str(folder / "nginx.conf")]


def _placed(text: str, listens: str, here: str, servers: Sequence[int]) -> str:
    """Return the text with other addresses, and nothing else changed."""
    assert text.count(listens) == 1
    text = text.replace(listens, here)
    for number, server in enumerate(servers, start=1):
        text, found = re.subn(rf"\b10\.0\.0\.{number}:8080", f"127.0.0.1:{server}", text)
        assert found >= 1
    assert "10.0.0." not in text
    return text


KINDS: Final[dict[str, Callable[[Path, int, Sequence[int]], list[str]]]] = {
    "haproxy": _haproxy,
    "nginx": _nginx,
}
CHECKS: Final = {"haproxy": "-c", "nginx": "-t"}


class Balancer:
    """A load balancer of `KINDS` in front of these ports.

    Use as a context manager; `port` is its own port.
    """

    def __init__(self, kind: str, folder: Path, servers: Sequence[int]) -> None:
        program = shutil.which(
            kind, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin"
        )
        if program is None:
            pytest.fail(f"{kind} is not there: `make balancers` installs it")
        folder.mkdir()
        self.port: Final = free_port()
        self._log: Final = folder / "output"
        self.command: Final = [program, *KINDS[kind](folder, self.port, servers)]
        self._check: Final = CHECKS[kind]
        self._process: subprocess.Popen[bytes] | None = None

    def check(self) -> str:
        """Return the program's complaints about its file, including warnings; empty if there are none."""
        command = [word for word in self.command if word != "-db"]
        checked = subprocess.run(
            [*command, self._check], capture_output=True, text=True, timeout=60, check=False
        )
        output = checked.stdout + checked.stderr
        return output if checked.returncode or re.search(r"warn|alert|emerg", output, re.IGNORECASE) else ""

    def __enter__(self) -> Self:
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            print(self._said())

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition that shows that the balancer listens and knows its servers."""
        assert self._process is not None

        def met() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self._said()
            return condition()

        wait_until(met, LISTENS_WITHIN, f"{self.command[0]} has its servers")

    def _said(self) -> str:
        """Return what the program printed, and nginx's error log."""
        logs = (self._log, self._log.parent / "log")
        return "".join(log.read_text("utf-8", "replace") for log in logs if log.exists())
