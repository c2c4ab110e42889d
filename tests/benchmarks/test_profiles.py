"""Profiles: samples that become shares, graphs and a page; the command, with a sampler of ours."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.benchmarks import flame, folded, profiles
from tests.benchmarks.folded import Frame, Place
from tests.benchmarks.profiles import Profile
from tests.benchmarks.results import ROOT

LOOP = "0x7f (libc.so.6);Runner.run (asyncio/runners.py:8);run_forever (loop.c:33);uv_run (core.c:4)"
TURN = f"{LOOP};Py_DECREF (object.h:5);TurnService.submit (agentscope_supervisor/turns/service.py:90)"
SAMPLES = f"""\
{TURN} 40
{TURN};_PyObject_Malloc (libpython3.11.so.1.0) 10
{TURN};loads (json/__init__.py:3);0x7f1 (orjson/orjson.cpython-311-x86_64-linux-gnu.so) 10
{LOOP};UVStream_write (loop.c:7);uv__try_write (stream.c:9);write (libc.so.6) 20
{LOOP};uv__io_poll (linux.c:1);__libc_read (libc.so.6:1) 20
{LOOP};uv__io_poll (linux.c:1);epoll_pwait (libc.so.6) 400
Thread.run (threading.py:9);Store._work (agentscope_supervisor/runs/store.py:1);\
PyThread_acquire_lock_timed (libpython3.11.so.1.0);0x7f2 (libc.so.6);0x7f3 (libc.so.6) 300
not a line of samples
"""

MYPYC = "agentscope_supervisor__mypyc.cpython-311-x86_64-linux-gnu.so"
HELPER = "_____mypyc_generator_helper__"
SUBMIT = Frame("agentscope_supervisor.turns.service", "TurnService.submit")
WRITE = Frame("kernel", "write")


@pytest.mark.parametrize(
    "text, frame",
    [
        ("Msg.dump (agentscope/message/__init__.py:7)", Frame("agentscope.message", "Msg.dump")),
        ("turn (turns.py:7)", Frame("turns", "turn")),
        ("step (_struct.cpython-311-x86_64-linux-gnu.so)", Frame("_struct", "step")),
        ("0x7f12 (pydantic_core/_core.abi3.so)", Frame("pydantic_core", "compiled")),
        ("task_step (_asynciomodule.c:4)", Frame("asyncio", "task_step")),
        ("__close_nocancel (libc.so.6)", Frame("kernel", "close")),
        ("malloc (libc.so.6)", None),
        ("_PyEval_EvalFrameDefault (libpython3.11.so.1.0)", None),
        ("main (python3.11)", None),
        (f"CPyDef_turn_head___read ({MYPYC})", Frame("mypyc.turn_head", "read")),
        (f"CPyDef_entrance____new_run_id ({MYPYC})", Frame("mypyc.entrance", "_new_run_id")),
        (f"CPyDef_answer___Answer___data ({MYPYC})", Frame("mypyc.answer", "Answer.data")),
        (f"CPyPy_link___Link____flush ({MYPYC})", Frame("mypyc.link", "Link._flush")),
        (f"CPyDef_serve____run_Server_gen{HELPER} ({MYPYC})", Frame("mypyc.serve", "Server._run")),
        (f"CPyDef_serve____tell_cancelled_gen{HELPER} ({MYPYC})", Frame("mypyc.serve", "_tell_cancelled")),
        (f"CPyDict_GetItem ({MYPYC})", None),
        ("<genexpr> (<string>:3)", None),
        ("0x7f12", None),
    ],
)
def test_a_frame_is_of_a_module_or_its_time_is_its_callers(text: str, frame: Frame | None) -> None:
    assert folded.frame_of(text) == frame


def test_what_waits_is_left_out_and_stacks_begin_at_the_loop() -> None:
    stacks = folded.read(SAMPLES)
    assert sum(stacks.values()) == 100
    assert stacks[Frame("libuv", "uv_run"), SUBMIT] == 50
    assert stacks[Frame("libuv", "uv__try_write"), WRITE] == 20


def test_shares_are_of_own_time() -> None:
    stacks = folded.read(SAMPLES)
    assert folded.own(stacks)[0] == (SUBMIT, 0.5)
    shares = folded.by_place(stacks)
    assert list(shares) == list(Place)
    assert shares[Place.OURS] == pytest.approx(0.5)
    assert shares[Place.JSON] == pytest.approx(0.1)
    assert shares[Place.KERNEL] == pytest.approx(0.4)
    assert sum(shares.values()) == pytest.approx(1)


def test_the_kernel_gets_the_share_that_it_has_counted() -> None:
    stacks = folded.weighed(folded.read(SAMPLES), 0.25)
    shares = folded.by_place(stacks)
    assert shares[Place.KERNEL] == pytest.approx(0.25)
    assert shares[Place.OURS] / shares[Place.JSON] == pytest.approx(5)


@pytest.mark.parametrize("kernel", [0.0, 1.0])
def test_a_share_that_cannot_be_weighed_is_left(kernel: float) -> None:
    stacks = folded.read(SAMPLES)
    assert folded.weighed(stacks, kernel) == stacks


def test_without_a_system_call_there_is_nothing_to_weigh() -> None:
    assert folded.weighed({(SUBMIT,): 3.0}, 0.5) == {(SUBMIT,): 3.0}


def test_boxes_are_as_wide_as_their_share_and_lie_on_their_callers() -> None:
    inner = Frame("json", "loads")
    root = flame.tree({(SUBMIT,): 60, (SUBMIT, inner): 30, (WRITE,): 9.8, (inner,): 0.2})
    found = {(box.frame, box.depth): box for box in flame.boxes(root, root.weight)}
    assert set(found) == {(SUBMIT, 0), (inner, 1), (WRITE, 0)}  # the last is too thin
    assert found[SUBMIT, 0].share == pytest.approx(0.9)
    assert found[inner, 1].left == found[SUBMIT, 0].left == 0
    assert found[WRITE, 0].left == pytest.approx(0.9)


def test_a_graph_is_small_and_the_same_each_time_and_tells_whole_names() -> None:
    odd = Frame("agentscope_supervisor.turns.service", "<a & b>")
    stacks = {(SUBMIT, odd): 90.0, (WRITE,): 10.0}
    svg = flame.drawing("short, supervisor", stacks)
    assert svg == flame.drawing("short, supervisor", dict(reversed(stacks.items())))
    space = "{http://www.w3.org/2000/svg}"
    titles = [each.text for each in ElementTree.fromstring(svg).iter(f"{space}title")]
    assert titles == [
        "agentscope_supervisor.turns.service.TurnService.submit, 90.0%",
        "agentscope_supervisor.turns.service.<a & b>, 90.0%",
        "kernel.write, 10.0%",
    ]


def test_a_page_has_the_graphs_and_the_shares_of_what_was_taken(tmp_path: Path) -> None:
    stacks = folded.weighed(folded.read(SAMPLES), 0.25)
    taken = [Profile("short", role, stacks, 100, 0.5, 0.25) for role in profiles.ROLES]
    profiles.write(taken, "a machine", tmp_path)
    page = (tmp_path / profiles.PAGE).read_text("utf-8")
    assert "a machine" in page
    assert "| kernel | 25% | 25% |" in page
    assert "0.50 cores, 25% of that in the kernel; 100 samples." in page
    assert "| 62.5% | `agentscope_supervisor.turns.service.TurnService.submit` |" in page
    for role in profiles.ROLES.values():
        assert f"](images/profiles/short-{role}.svg)" in page
        ElementTree.parse(tmp_path / profiles.IMAGES / f"short-{role}.svg")


def test_the_command_samples_each_process_under_load(tmp_path: Path) -> None:
    """With a sampler that notes which process it was given, and finds it at work."""
    (tmp_path / "samples").write_text(SAMPLES, "utf-8")
    bin_ = tmp_path / "py-spy" / "bin"
    bin_.mkdir(parents=True)
    (tmp_path / "py-spy" / ".installed").write_text("py-spy", "utf-8")
    sampler = f"""#!/bin/sh
while [ "$1" != --pid ]; do shift; done
cat /proc/$2/cmdline | tr '\\0' ' ' >> {tmp_path}/sampled && echo >> {tmp_path}/sampled
while [ "$1" != --output ]; do shift; done
cp {tmp_path}/samples "$2"
"""
    for name, text in {"py-spy": sampler, "python": "#!/bin/sh\necho py-spy 0.0\n"}.items():
        (bin_ / name).write_text(text, "utf-8")
        os.chmod(bin_ / name, 0o755)
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "tests.benchmarks.profiles",
                "--only",
                "short,client",
                "--seconds",
                "0.5",
            ),
            *("--peers", str(tmp_path), "--docs", str(tmp_path / "docs")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sampled = (tmp_path / "sampled").read_text("utf-8").splitlines()
    assert len(sampled) == 4
    assert all("agentscope-supervisor start" in line for line in sampled[::2])
    assert all("agentscope_worker" in line for line in sampled[1::2])
    page = (tmp_path / "docs" / profiles.PAGE).read_text("utf-8")
    assert page.count("[![") == 4
    assert "py-spy 0.0" in page


def test_the_command_says_why_there_is_no_sampler(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.profiles", "--peers", str(tmp_path)]
    environment = {**os.environ, "PYTHON": str(tmp_path / "python")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("failed: ")
    assert len(done.stderr.splitlines()) == 1
