"""Limits of the kept output, and detection of stack dump lines."""

import faulthandler
import subprocess
import sys
import traceback

from agentscope_supervisor.processes.kept_output import KEPT_WIDTH, is_stack_line, kept


def test_kept_output_is_bounded_in_lines_and_width() -> None:
    assert kept(["a", "b", "c" * 1000], 2) == ("b", "c" * KEPT_WIDTH)


def test_every_line_of_a_stack_dump_is_recognised_and_no_line_of_a_traceback() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import faulthandler as f, threading as t\n"
         "a = t.Thread(target=f.dump_traceback); a.start(); a.join(); f.enable(); f._sigsegv()"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line for line in ended.stderr.splitlines() if line]
    assert len(lines) >= 6
    assert [line for line in lines if not is_stack_line(line)] == []
    try:
        faulthandler.enable("no file")  # type: ignore[arg-type]
    except (TypeError, ValueError, AttributeError):
        printed = traceback.format_exc().splitlines()
    assert [line for line in printed if is_stack_line(line)] == []
