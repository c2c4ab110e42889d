"""The part of `agentscope-supervisor check` that runs in the project's own interpreter.

Compares requirements.txt with the installed packages, and loads app.py as a worker does: with the command,
the environment, the event loop and the modules of a worker. It must not start anything: `on_startup` is not
called and no model is contacted. It must not write to the project either: `check` may run as root, and the
workers as another user. It reports all problems, not only the first.

Read next: `host`.
"""

import asyncio
import contextlib
import sys
from collections.abc import Collection
from pathlib import Path

import uvloop

from agentscope_protocol.config import settings as settings_module
from agentscope_worker import host, shadowing, zygote
from agentscope_worker.installed_requirements import requirement_problems
from agentscope_worker.loop_runner import LoopRunner


def check(project: Path, snapshot: bytes, parts: Collection[str]) -> int:
    """Print each problem on stderr; returns the exit status: 0, or 78 if there are problems.

    `parts`: features the settings use, as for `zygote.preload`.
    """
    sys.dont_write_bytecode = True
    problems = list(requirement_problems(project / "requirements.txt"))
    missing: list[str] = []
    with contextlib.suppress(zygote.CannotFork):  # the start reports the reason
        missing = zygote.preload(parts)
    runner = LoopRunner(asyncio.Runner(loop_factory=uvloop.new_event_loop))
    settings = settings_module.restore(snapshot)
    try:
        runner.run(host.boot(settings, project, hooks=False, outside=runner.outside))
        problems += missing  # otherwise the start has reported the first of them
    except host.BootError as error:
        problems.append(error.message)
    for clash in shadowing.clashes(project):
        name = clash.path.name
        if clash.hidden and clash.used:
            problems.append(f"{clash.used}: the import returns {clash.other}, not {name}; rename {name}")
        else:
            print(f"warning: {name} replaces {clash.other} for all packages; rename it", file=sys.stderr)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 78 if problems else 0
