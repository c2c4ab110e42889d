"""`--reload`: the effects of edits to the files of a project."""

import asyncio
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness.client import Stream, new_session, texts
from tests.harness.instance import Instance
from tests.harness.projects import configure, written
from tests.harness.waiting import eventually, eventually_so, wait_until

APP: Final = """
    from agentscope.message import Msg
    from agentscope.runtime import AgentApp

    from words import WORD


    class App(AgentApp):
        async def __call__(self, msg, ctx):
            yield Msg(name="a", content=WORD, role="assistant")
"""
LIVE_WITHIN: Final = 60.0  # seconds; 1 s on an idle machine


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = written(tmp_path / "project", APP)
    (folder / "words.py").write_text("WORD = 'v0'\n")
    return folder


@pytest.fixture
def edited(project: Path, new_instance: Callable[..., Instance]) -> Instance:
    """An instance with `--reload`, whose app answers with a word of the module `words`."""
    instance = new_instance(project, workers=1, arguments=["--reload"]).start()
    wait_until(lambda: "watching the project" in instance.log, 10, "the watch has started")
    return instance


def say(project: Path, word: str) -> None:
    (project / "words.py").write_text(f"WORD = '{word}'\n")


async def said(instance: Instance) -> str:
    (word,) = await texts(instance.port, new_session(), "x")
    return word


async def live(instance: Instance, word: str) -> None:
    """Wait until turns are answered with this word."""

    async def answered() -> bool:
        return await said(instance) == word

    await eventually_so(answered, LIVE_WITHIN, f"{word} is live")


def status(instance: Instance) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(instance.command("status", "--json").stdout)
    return answer


def rolls(instance: Instance) -> int:
    return instance.log.count("replacing all workers")


async def test_every_edit_takes_effect_even_two_within_a_second(edited: Instance, project: Path) -> None:
    assert await said(edited) == "v0"
    for number in range(1, 5):  # of the same size, so bytecode of the previous edit would still match
        say(project, f"v{number}")
        await live(edited, f"v{number}")
    assert edited.log.count("AgentScope is preloaded") == 1, "the preloaded process is kept"


async def test_a_running_turn_keeps_its_code(edited: Instance, project: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    app = (project / "app.py").read_text()
    waits = f"while not pathlib.Path({str(gate)!r}).exists():\n            await asyncio.sleep(0.01)"
    (project / "app.py").write_text(
        "import asyncio, pathlib\n" + app.replace("yield", f"{waits}\n        yield")
    )
    await eventually(lambda: "rollout done" in edited.log, LIVE_WITHIN, "the app with the gate is active")
    asking = asyncio.create_task(said(edited))
    await eventually(lambda: edited.health()["turns"]["open"] == 1, 30, "a turn runs")
    say(project, "v1")
    await eventually(lambda: edited.log.count("rollout done") == 2, LIVE_WITHIN, "the next rollout is done")
    assert not asking.done()
    gate.touch()
    assert await asking == "v0"
    assert await said(edited) == "v1"


async def test_a_syntax_error_is_reported_and_the_previous_code_stays_active(
    edited: Instance, project: Path
) -> None:
    (worker,) = edited.ready_workers()
    (project / "words.py").write_text("WORD = 'v1'\nWORD = = 2\n")
    await eventually(lambda: "rollout failed" in edited.log, LIVE_WITHIN, "the rollout fails")
    error = f"{project}/words.py, line 2: SyntaxError"
    assert error in edited.log
    assert error in status(edited)["rollout"]["failure"]
    assert "words.py, line 2" in edited.command("events", "-n", "100").stdout
    assert "".join(error.split()) in "".join(edited.command("status").stdout.split())
    assert edited.ready_workers() == [worker]
    assert await said(edited) == "v0"
    say(project, "v2")
    await live(edited, "v2")
    await eventually(
        lambda: not status(edited)["rollout"]["failure"], LIVE_WITHIN, "the next rollout succeeds"
    )


async def test_an_invalid_configuration_is_reported_and_the_previous_one_stays_active(
    edited: Instance, project: Path
) -> None:
    (project / "agentapp.yaml").write_text("server:\n  prot: 1\n")
    await eventually(lambda: "agentapp.yaml:2" in edited.log, LIVE_WITHIN, "the reload is refused")
    assert "server.prot" in status(edited)["trouble"]
    assert await said(edited) == "v0"
    configure(project, sessions={"max_queue": 3})
    await eventually(lambda: status(edited)["trouble"] is None, LIVE_WITHIN, "the next reload is accepted")


async def test_a_burst_of_changes_causes_few_rollouts_and_the_last_change_takes_effect(
    edited: Instance, project: Path
) -> None:
    for number in range(100):
        (project / f"more{number}.py").write_text("x = 1\n")
        say(project, f"w{number}")
    await live(edited, "w99")
    # One rollout, unless the machine is so busy that two writes are more than 0.1 s apart.
    assert rolls(edited) < 10
    line = next(line for line in edited.log.splitlines() if "files changed" in line)
    assert re.search(r"more0\.py, .* and \d+ more", line)


async def test_files_replaced_moved_and_removed_by_editors_are_noticed(
    edited: Instance, project: Path
) -> None:
    words, beside = project / "words.py", project / ".words.py.swp"
    beside.write_text("WORD = 'v1'\n")
    beside.rename(words)  # replaced by a rename
    await live(edited, "v1")
    words.rename(project / "words.py~")  # moved away and written again
    say(project, "v2")
    await live(edited, "v2")
    words.unlink()
    await eventually(
        lambda: "No module named 'words'" in edited.log, LIVE_WITHIN, "the missing module is reported"
    )
    assert await said(edited) == "v2"
    say(project, "v3")
    await live(edited, "v3")


async def test_a_change_during_a_rollout_takes_effect_after_it(
    project: Path, new_instance: Callable[..., Instance], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    instance = new_instance(project, workers=1, arguments=["--reload"]).start()
    wait_until(lambda: "watching the project" in instance.log, 10, "the watch has started")
    text = (project / "app.py").read_text()
    waiting = f"import time, pathlib\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)\n"
    (project / "app.py").write_text(waiting + text)
    await eventually(lambda: len(instance.workers()) == 2, LIVE_WITHIN, "the first rollout is in progress")
    say(project, "v1")
    await eventually(lambda: rolls(instance) == 2, LIVE_WITHIN, "the second rollout is requested")
    gate.touch()
    await live(instance, "v1")
    await eventually(lambda: "rollout done" in instance.log, LIVE_WITHIN, "the rollout ends")
    assert rolls(instance) == 2


async def test_files_that_an_app_writes_cause_no_rollout(edited: Instance, project: Path) -> None:
    for name in ("sessions/a.py", "data.json", "__pycache__/x.py", "out/log.txt", ".git/HEAD.py"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("x")
    os.utime(project / "words.py")  # the only file that matters, changed last
    await eventually(lambda: "files changed" in edited.log, LIVE_WITHIN, "the change is noticed")
    line = next(line for line in edited.log.splitlines() if "files changed" in line)
    assert line.endswith("files=words.py")
    assert rolls(edited) == 1


WRITER: Final = """
    import os
    from pathlib import Path
    from agentscope.message import Msg
    from agentscope.runtime import AgentApp

    Path("at_import.yaml").write_text("x: 1")

    class App(AgentApp):
        async def __call__(self, msg, ctx):
            Path("notes.yaml").write_text("x: 1")
            Path("draft").write_text("x = 1")
            os.replace("draft", "tool.py")
            yield Msg(name="a", content="written", role="assistant")
"""


async def test_files_that_the_agent_writes_cause_no_rollout_and_the_log_says_how_to_include_them(
    tmp_path: Path, new_instance: Callable[..., Instance]
) -> None:
    config = "reload: {include: ['*.md'], exclude: [scratch/]}"
    project = written(tmp_path / "project", WRITER, config)
    (project / "scratch").mkdir()
    instance = new_instance(project, workers=1, arguments=["--reload"]).start()
    await eventually(lambda: "watching the project" in instance.log, 30, "the watch has started")
    assert await said(instance) == "written"
    (project / "scratch" / "try.py").write_text("x = 1")
    ignored = "reload.include includes it file="
    await eventually(lambda: instance.log.count(ignored) >= 2, LIVE_WITHIN, "the writes are noticed")
    (project / "prompt.md").write_text("Be brief.")
    await eventually(lambda: "rollout done" in instance.log, LIVE_WITHIN, "the edit is noticed")
    assert rolls(instance) == 1
    (line,) = [line for line in instance.log.splitlines() if "files changed" in line]
    assert line.endswith("files changed; reload.exclude excludes files files=prompt.md")
    names = set(re.findall(rf"{re.escape(ignored)}(\S+)", instance.log))
    assert {"notes.yaml", "tool.py"} <= names <= {"notes.yaml", "tool.py", "at_import.yaml"}
    configure(project, reload={"exclude": ["*.md"]})
    await eventually(lambda: instance.log.count("rollout done") == 2, LIVE_WITHIN, "the file is reloaded")
    (project / "prompt.md").write_text("Be polite.")
    (project / "words.py").write_text("x = 1")
    await eventually(lambda: "files=words.py" in instance.log, LIVE_WITHIN, "the new rules apply")
    assert instance.log.count("files=prompt.md") == 1


async def test_without_the_option_the_project_is_not_watched(
    project: Path, new_instance: Callable[..., Instance]
) -> None:
    instance = new_instance(project, workers=1).start()
    say(project, "v1")
    async with Stream(instance.port, new_session(), "x") as stream:
        await stream.whole()
    assert "watching the project" not in instance.log
    assert await said(instance) == "v0"
