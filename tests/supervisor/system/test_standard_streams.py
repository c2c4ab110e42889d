"""The end of a process by `leave`: what was printed is written, and the exit status is the given one."""

import os
import subprocess
import sys

LEAVES = """
import sys
from agentscope_supervisor.system import standard_streams
print("printed", end="")
print("an error", end="", file=sys.stderr)
if sys.argv[1:]:
    sys.stdout.close()
standard_streams.leave(75)
"""

COMMAND = [sys.executable, "-c", LEAVES]
BUFFERED = {**os.environ, "PYTHONUNBUFFERED": ""}


def test_leave_writes_what_was_printed() -> None:
    for closes in ([], ["closes"]):
        ran = subprocess.run([*COMMAND, *closes], capture_output=True, text=True, env=BUFFERED, check=False)
        assert (ran.returncode, ran.stdout, ran.stderr) == (75, "printed", "an error")


def test_a_stream_that_takes_no_text_does_not_change_the_status() -> None:
    with open("/dev/full", "w") as full:
        assert subprocess.run(COMMAND, stdout=full, env=BUFFERED, check=False).returncode == 75
