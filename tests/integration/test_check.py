"""`check` loads a project under the conditions of a worker, and reports what a worker would meet."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from agentscope_supervisor.processes.reaper import MARK as DESCENDANT
from tests.harness.instance import COMMAND, MARK, Instance, run
from tests.harness.projects import written

CANNOT_WORK: Final = 78
ONLY_WORKERS: Final = {DESCENDANT, MARK}  # variables with which an instance and its tests find processes

# Also starts a thread that never ends: it delays neither the end of a worker nor that of `check`.
APP: Final = """
    import asyncio, json, locale, os, sys, threading
    from pathlib import Path
    from agentscope.runtime import AgentApp

    seen = {
        "loop": type(asyncio.get_running_loop()).__module__,
        "path": sys.path,
        "flags": [sys.flags.utf8_mode, sys.flags.safe_path, sys.flags.optimize],
        "encodings": [sys.stdout.encoding, sys.stderr.encoding, locale.getpreferredencoding(False)],
        "folder": os.getcwd(),
        "input": sys.stdin.read(),
        "environment": dict(os.environ),
        "modules": sorted({name.partition(".")[0] for name in sys.modules}),
    }
    Path(__file__).with_name("seen").write_text(json.dumps(seen))
    threading.Thread(target=threading.Event().wait).start()

    class App(AgentApp):
        async def __call__(self, msg, ctx):
            yield msg
"""

FEATURES: Final = """
    mcp_servers: {nobody: {url: "http://127.0.0.1:9/sse"}}
    tracing: {endpoint: "http://127.0.0.1:9/v1/traces"}
    supervisor: {preload: false}
"""


def seen(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project / "seen").read_text())
    return found


def test_check_imports_the_app_under_the_conditions_of_a_worker(
    tmp_path: Path, new_instance: Callable[..., Instance]
) -> None:
    project = written(tmp_path / "project", APP, FEATURES)
    ended = run(COMMAND, "check", project)
    assert ended.returncode == 0, ended.stderr
    in_check = seen(project)
    assert in_check["loop"].startswith("uvloop")
    new_instance(project, workers=1).start()
    in_worker = seen(project)
    # A worker also has the modules that open connections, which `check` does not.
    assert {"mcp", "opentelemetry"} <= set(in_check.pop("modules")) & set(in_worker.pop("modules"))
    for name in ONLY_WORKERS:
        in_worker["environment"].pop(name)
    assert in_check == in_worker


def test_check_and_pack_write_nothing_into_the_project(tmp_path: Path) -> None:
    project = written(tmp_path / "project", "from own import App\n")
    (project / "own.py").write_text(
        "from agentscope.runtime import AgentApp\n"
        "class App(AgentApp):\n"
        "    async def __call__(self, msg, ctx):\n"
        "        yield msg\n"
    )
    before = set(project.rglob("*"))
    for command in (["check", project], ["pack", project, "-o", tmp_path / "own.tar.gz"]):
        ended = run(COMMAND, *command)
        assert ended.returncode == 0, ended.stderr
        assert set(project.rglob("*")) == before


def test_check_reports_files_that_have_the_name_of_another_module(tmp_path: Path) -> None:
    app = """
        import calendar
        from agentscope.runtime import AgentApp

        class App(AgentApp):
            async def __call__(self, msg, ctx):
                yield calendar.next_day_off()
    """
    project = written(tmp_path / "project", app)
    for name in ("calendar.py", "wave.py", "json.py", "own.py"):
        (project / name).write_text("def next_day_off(): ...\n")
    (project / "tests").mkdir()
    (project / "tests" / "__init__.py").touch()
    ended = run(COMMAND, "check", project)
    assert ended.returncode == CANNOT_WORK
    hidden, warned = sorted(ended.stderr.splitlines())
    assert hidden.startswith("app.py, line 2: the import returns /")
    assert hidden.endswith("/calendar.py, not calendar.py; rename calendar.py")
    assert warned.startswith("warning: wave.py replaces /"), "json.py is never imported from the project"
    (project / "calendar.py").rename(project / "days_off.py")
    assert run(COMMAND, "check", project).returncode == 0, "a warning alone is accepted"
