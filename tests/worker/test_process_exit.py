"""The end of a worker process: what an exit of Python does happens, and nothing makes it last."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from agentscope_worker.process_exit import EXIT_TIMEOUT, JOIN_TIMEOUT

ENDED_WITHIN = 10.0  # seconds; a tenth on an idle machine


def ended(folder: Path, code: str, status: int = 0, within: float = EXIT_TIMEOUT) -> tuple[int, str, float]:
    """Run `code`, as a worker's App, to the end of its process; returns status, stderr and seconds."""
    program = f"""
import multiprocessing, os, threading, time
from agentscope_worker import process_exit
process_exit.prepare()
fork = multiprocessing.get_context("fork")
{textwrap.dedent(code)}
process_exit.leave({status}, {within})
"""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr, time.monotonic() - began


def test_what_a_library_leaves_for_the_end_of_the_process_is_done(tmp_path: Path) -> None:
    """Batches of exporters, buffers of log handlers and of files, and temporary folders."""
    status, said, _ = ended(
        tmp_path,
        """
        import atexit, gc, logging.handlers, tempfile
        atexit.register(lambda: open("exported", "w").write("batch"))
        handler = logging.handlers.MemoryHandler(100, target=logging.FileHandler("log"))
        logging.getLogger().addHandler(handler)
        logging.getLogger().warning("kept in memory")
        folder = tempfile.TemporaryDirectory(dir=".")
        print(folder.name, flush=True)
        unclosed = open("unclosed", "w")
        unclosed.write("in the buffer")
        gc.freeze()
        """,
        status=7,
    )
    assert (status, said) == (7, "")
    left = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert left == {"exported": "batch", "log": "kept in memory\n", "unclosed": "in the buffer"}


@pytest.mark.parametrize(
    "stream", ["sys.stdout.close()", "sys.stdout = sys.stderr = None", "sys.stdout = object()"]
)
def test_an_app_that_has_closed_or_replaced_its_output_ends_as_others_do(tmp_path: Path, stream: str) -> None:
    code = f"""
        import sys
        unclosed = open("unclosed", "w")
        unclosed.write("in the buffer")
        {stream}
    """
    assert ended(tmp_path, code, status=7)[:2] == (7, "")
    assert (tmp_path / "unclosed").read_text() == "in the buffer"


def test_a_function_of_atexit_that_hangs_does_not_keep_the_process(tmp_path: Path) -> None:
    status, said, took = ended(
        tmp_path,
        """
        import atexit
        atexit.register(threading.Event().wait)
        threading.Thread(target=threading.Event().wait).start()
        """,
        within=0.2,
    )
    assert status == 0
    assert "did not end within 0.2 s" in said
    assert took < ENDED_WITHIN


def test_a_process_that_a_signal_ends_exits_with_that_signal(tmp_path: Path) -> None:
    code = """
        import atexit, signal
        signal.signal(signal.SIGTERM, lambda *_: None)
        atexit.register(lambda: open("exported", "w").write("batch"))
    """
    assert ended(tmp_path, code, status=-signal.SIGTERM)[0] == -signal.SIGTERM
    assert (tmp_path / "exported").exists()
    hanging = "import atexit\natexit.register(threading.Event().wait)"
    assert ended(tmp_path, hanging, status=-signal.SIGTERM, within=0.2)[0] == -signal.SIGTERM


def test_a_forked_child_that_leaves_with_sys_exit_leaves_the_children_of_the_worker_alone(
    tmp_path: Path,
) -> None:
    code = """
        import sys
        helper = fork.Process(target=time.sleep, args=[600], daemon=True)
        helper.start()
        child = os.fork()
        if child == 0:
            sys.exit(3)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        open("seen", "w").write(f"{status} {helper.is_alive()}")
    """
    assert ended(tmp_path, code)[:2] == (0, "")
    assert (tmp_path / "seen").read_text() == "3 True"


@pytest.mark.parametrize(
    "work, written",
    [
        ("time.sleep(0.1); open('done', 'w').write('whole')", "whole"),
        ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)", None),
    ],
    ids=["finishes", "never ends"],
)
def test_children_of_multiprocessing_finish_or_are_ended(
    tmp_path: Path, work: str, written: str | None
) -> None:
    status, _, took = ended(
        tmp_path,
        f"""
        def work():
            {work}
        child = fork.Process(target=work)
        child.start()
        helper = fork.Process(target=time.sleep, args=[600], daemon=True)
        helper.start()
        open("children", "w").write(f"{{child.pid}} {{helper.pid}}")
        """,
    )
    assert status == 0
    done = tmp_path / "done"
    assert (done.read_text() if done.exists() else None) == written
    for pid in (tmp_path / "children").read_text().split():
        assert not Path("/proc", pid).exists(), "no child is left"
    assert took < 2 * JOIN_TIMEOUT + ENDED_WITHIN
