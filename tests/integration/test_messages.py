"""The messages of commands that a newcomer meets: each says what is wrong and what to do next."""

import re
from collections.abc import Callable
from pathlib import Path

from tests.harness.instance import COMMAND, Instance, run
from tests.harness.projects import hooks, written
from tests.harness.waiting import wait_until

GOOD_APP = """
    from agentscope.runtime import AgentApp

    class App(AgentApp):
        async def __call__(self, msg, ctx):
            yield msg
"""


def said(*arguments: str | Path) -> str:
    """Run a command that fails; return what it prints."""
    ended = run(COMMAND, *arguments)
    assert ended.returncode != 0
    return ended.stderr + ended.stdout


# -- a running instance --------------------------------------------------------------------------------


def test_invoke_reaches_no_other_app(shared: Instance, tmp_path: Path) -> None:
    """A message to a project that does not run must not reach the only instance that does."""
    other = written(tmp_path / "other", None)
    reach = ("--runtime-dir", shared.runtime_dir)
    wanted = (
        f"Error: no instance of {other} is running; select one of the running instances with --name:"
        f" test ({shared.project})\n"
    )
    assert said("invoke", other, *reach, "-s", "me", "hello") == wanted
    ended = run(COMMAND, "invoke", *reach, "-s", "me", "hello", cwd=other)
    assert (ended.returncode, ended.stderr) == (1, wanted), "the current folder is that project"


def test_a_name_that_does_not_run_is_reported_with_those_that_do(shared: Instance) -> None:
    assert said("status", "--runtime-dir", shared.runtime_dir, "--name", "x") == (
        "Error: no instance named 'x' is running; select one of the running instances with --name:"
        f" test ({shared.project})\n"
    )


def test_stacks_show_where_a_hanging_start_waits(
    make_project: Callable[..., Path], new_instance: Callable[..., Instance]
) -> None:
    project = make_project()
    hooks(project, startup=[{"sleep": 600}])
    (project / "requirements.txt").write_text("no-such-package-here>=1\n")
    instance = new_instance(project, workers=1).launch()
    instance.wait_listening()
    waits = re.compile(r'app\.py", line \d+ in App\.on_startup$', re.MULTILINE)
    wait_until(lambda: waits.search(instance.command("stacks").stdout), 30, "the stack of on_startup")
    assert re.search(
        r"warning requirements\.txt:1: no-such-package-here is not installed; install it with:"
        r" \S+ -m pip install 'no-such-package-here>=1' worker=0\.1",
        instance.log,
    )
    assert instance.stop() == 0


def test_invoke_needs_no_variable_of_the_app(
    make_project: Callable[..., Path], new_instance: Callable[..., Instance]
) -> None:
    project = make_project(session={"save_dir": "${SESSIONS}"}, server={"auth_token": "${OUR_TOKEN}"})
    (project / "ours.env").write_text("SESSIONS=sessions\nOUR_TOKEN=secret-token\n")
    instance = new_instance(project, workers=1, arguments=["--env-file", "ours.env"]).start()
    refused = run(COMMAND, "invoke", *instance.found_by, "-s", "me", "hello")
    assert refused.returncode == 1
    assert re.fullmatch(
        r"Error: UNAUTHORIZED: .+; the token in agentapp\.yaml needs the variable OUR_TOKEN, "
        r"which is not set\n",
        refused.stderr,
    )
    answer = run(COMMAND, "invoke", *instance.found_by, "-s", "me", "hello", OUR_TOKEN="secret-token")
    assert (answer.returncode, answer.stdout) == (0, "hello\n")
    (project / "ours.env").rename(project / ".env")
    answer = run(COMMAND, "invoke", *instance.found_by, "-s", "me", "again")
    assert (answer.returncode, answer.stdout) == (0, "again\n"), "the token is in .env"
    assert "secret-token" not in instance.log


def test_check_names_the_variables_that_are_missing(tmp_path: Path) -> None:
    project = written(tmp_path / "project", GOOD_APP, "session: {save_dir: '${ONE}/${TWO}'}")
    unset = (
        "agentscope-supervisor: invalid configuration\n"
        "agentapp.yaml:1: session.save_dir: the environment variable ONE is not set\n"
        "agentapp.yaml:1: session.save_dir: the environment variable TWO is not set\n"
        "Set ONE, TWO in the environment, or as NAME=value lines in "
    )
    assert said("check", project) == f"{unset}{project}/.env\n"
    (project / ".env.example").touch()
    assert said("start", project) == (
        f"{unset}a file that --env-file names; {project}/.env.example shows how\n"
    )
    (project / ".env").write_text("ONE=private\nTWO=\n")
    checked = run(COMMAND, "check", project)
    assert (checked.returncode, checked.stdout, checked.stderr) == (
        0,
        "variables from .env, which `start` reads with --env-file only: ONE, TWO\nproject: OK\n",
        "",
    )
