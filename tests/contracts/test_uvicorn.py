"""An app sees and answers the same in a worker as under uvicorn, but for the differences listed here."""

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.contracts.probes import PROBES, Asker
from tests.harness.instance import Instance
from tests.harness.projects import copied
from tests.harness.waiting import wait_until

_VERSION: Final = (
    "uvicorn answers with its own version of HTTP, 1.1, and the supervisor with that of the client."
)

DIFFERENCES: Final = {
    "absolute target": "uvicorn takes the whole URL for the path (RFC 9112, section 3.2.2).",
    "HTTP/1.0": _VERSION,
    "HTTP/1.0, a stream": _VERSION,
    "WebSocket, client is lost": "uvicorn reports 1005, a close without a code. An end without one is 1006 "
    "(RFC 6455, section 7.1.5).",
    "WebSocket, error in the app": "uvicorn only ends the connection, which looks like a lost network. The "
    "supervisor sends 1011, the code for an error of the server.",
}
"""Probes whose answers differ, each with the reason."""

Answers = dict[str, tuple[Any, Any]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """The answers to each probe: of uvicorn, and of an instance. Both have one process."""
    folder = tmp_path_factory.mktemp("probes")
    named = {"hosts": ["x", "example.org", "other.example"]}
    ours = Instance(copied("probe", folder / "ours", server=named), folder / "instance", workers=1)
    with _uvicorn(copied("probe", folder / "theirs")) as their_port, ours:
        ours.start()
        return asyncio.run(_asked(their_port, ours.port))


async def _asked(their_port: int, our_port: int) -> Answers:
    theirs, ours = Asker(their_port), Asker(our_port)
    found = {}
    async with theirs.web, ours.web:
        for name in PROBES:
            found[name] = tuple(await asyncio.gather(theirs.answer(name), ours.answer(name)))
    return found


@contextlib.contextmanager
def _uvicorn(project: Path) -> Iterator[int]:
    """A running uvicorn with the app of a project; yields its port."""
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", "0"]
    log = project / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=project, stdout=output, stderr=output)
    try:
        pattern = re.compile(r"running on http://127\.0\.0\.1:(\d+)")
        found = wait_until(lambda: pattern.search(log.read_text()), 40, "uvicorn is ready")
        assert found
        yield int(found[1])
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("name", PROBES)
def test_the_answer_is_that_of_uvicorn(answers: Answers, name: str) -> None:
    theirs, ours = answers[name]
    assert "TimeoutError: " not in (theirs, ours)
    if name in DIFFERENCES:
        assert ours != theirs, "a difference that is no more"
    else:
        assert ours == theirs


def test_each_difference_is_one_of_a_probe() -> None:
    assert PROBES.keys() >= DIFFERENCES.keys()
    assert len(PROBES) >= 46
