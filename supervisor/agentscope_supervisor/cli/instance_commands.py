"""The commands with which an operator sees and steers a running instance, and how they are shown.

Each asks the control socket of one instance. Exit statuses: 0 done, 1 refused, failed or no instance, 2 wrong
usage. `render` and `top` have the pictures for people, and are imported only for them; programs read
`--json`.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from agentscope_protocol.config.setting_types import MAX_WORKERS
from agentscope_protocol.wire.log_lines import session_digest
from agentscope_supervisor.cli.formatting import clock, duration, printable
from agentscope_supervisor.control.client import ControlClient, Unanswered
from agentscope_supervisor.system import instance_dir
from agentscope_supervisor.system.instance_dir import Address
from agentscope_supervisor.system.log_buffer import KEPT
from agentscope_supervisor.system.log_setup import LEVELS

Command = Callable[..., Any]

SHOWN_OUTPUT: Final = 12  # last lines of a dead worker that are shown without --json

_RUNTIME_DIR: Final = (
    "Lock and control socket of instances.  [default: $RUNTIME_DIRECTORY, else $XDG_RUNTIME_DIR, else /run as"
    " root, else below the temporary directory]"
)


def instance_options(command: Command) -> Command:
    """How a running instance is told from others."""
    directory = click.Path(path_type=Path, file_okay=False)
    for decorate in (
        click.option("--name", help="Of the instance.  [default: the folder's name]"),
        click.option("--runtime-dir", type=directory, help=_RUNTIME_DIR),
    ):
        command = decorate(command)
    return command


def find(name: str | None, runtime_dir: Path | None, project: Path) -> Address:
    """The running instance that a command means: by name, by project, or the only one."""
    root = _root(runtime_dir)
    try:
        found = instance_dir.running(root)
    except instance_dir.InstanceError as error:
        raise click.ClickException(str(error)) from None
    if name is not None:
        matching = [address for address in found if address.name == name]
    else:
        matching = [address for address in found if address.project == str(project.resolve())] or found
    if len(matching) == 1:
        return matching[0]
    if not found:
        raise click.ClickException(f"no instance is running (looked in {root / instance_dir.PROGRAM})")
    names = ", ".join(address.name for address in found)
    raise click.UsageError(f"say which instance with --name; running: {names}")


def _root(runtime_dir: Path | None) -> Path:
    return instance_dir.runtime_dir(runtime_dir, os.environ, os.getuid())


COMMANDS: Final[list[click.Command]] = []


def _command(*options: Command, name: str | None = None) -> Callable[[Command], click.Command]:
    """A command on one running instance; the function gets its client first."""

    def decorate(function: Command) -> click.Command:
        @wraps(function)
        def run(name: str | None, runtime_dir: Path | None, **arguments: Any) -> None:
            client = ControlClient(_root(runtime_dir), find(name, runtime_dir, Path()))
            try:
                function(client, **arguments)
            except Unanswered as error:
                raise click.ClickException(str(error)) from None

        decorated: Command = instance_options(run)
        for option in reversed(options):
            decorated = option(decorated)
        command = click.command(name)(decorated)
        COMMANDS.append(command)
        return command

    return decorate


_json: Final = click.option("--json", "as_json", is_flag=True, help="For programs.")
_wait: Final = click.option("--wait", is_flag=True, help="Until it is over.")


# -- what is seen -----------------------------------------------------------------------------


@_command(_json)
def status(client: ControlClient, as_json: bool) -> None:
    """Show the instance, its slots and their workers."""
    told = client.get("/status")
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        _show_status(told)


def _show_status(told: dict[str, Any]) -> None:
    from agentscope_supervisor.cli import render as overview

    screen = overview.screen()
    screen.print(overview.status(told, screen.width))


@_command(
    click.option("--every", type=click.FloatRange(0.1), default=1.0, show_default=True, help="Seconds."),
    click.option("--once", is_flag=True, help="One picture, and no keys."),
    click.option("--json", "as_json", is_flag=True, help="A line for each picture, for programs."),
)
def top(client: ControlClient, every: float, once: bool, as_json: bool) -> None:
    """Watch the instance live, with its open sessions. `q` quits, `s` sorts."""
    from agentscope_supervisor.cli import top

    once = once or not (as_json or (sys.stdin.isatty() and sys.stdout.isatty()))
    try:
        if as_json:
            _told_lines(client, every, once)
        elif once:
            _show_status(client.get("/status"))
            click.echo()
            _show_sessions(client.get("/sessions"))
        else:
            top.run(client, every)
    except KeyboardInterrupt:
        sys.exit(0)


def _told_lines(client: ControlClient, every: float, once: bool) -> None:
    while True:
        told = {**client.get("/status"), "open_sessions": client.get("/sessions")}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        if once:
            return
        time.sleep(every)


@_command(_json, click.option("-n", "last", metavar="N", type=click.IntRange(1), help="The last N only."))
def deaths(client: ControlClient, as_json: bool, last: int | None) -> None:
    """Show how workers ended, with their last lines and stacks."""
    told = client.get("/deaths")[-(last or 0) :]
    _print(_shown_deaths(told), told, as_json)


@_command(_json)
def sessions(client: ControlClient, as_json: bool) -> None:
    """Show the sessions with open turns. Their ids are as clients sent them."""
    told = client.get("/sessions")
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        _show_sessions(told)


def _show_sessions(told: list[dict[str, Any]]) -> None:
    from agentscope_supervisor.cli import render as overview

    screen = overview.screen()
    if told:
        screen.print(overview.sessions(told, screen.width))
    else:
        screen.print("no turn is open")


@_command(_json)
def stacks(client: ControlClient, as_json: bool) -> None:
    """Show where the supervisor and each worker is at this moment."""
    told = client.get("/stacks")
    _print(_shown_stacks(told), told, as_json)


_follow: Final = click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
_last: Final = click.option(
    "-n",
    "last",
    metavar="N",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Begin with the last N lines that are kept.",
)


@_command(_last, _follow)
def events(client: ControlClient, last: int, follow: bool) -> None:
    """Print what happened in the instance, one JSON object a line."""
    _lines(client, "/events", last, follow)


@_command(
    _last,
    _follow,
    click.option("--session", metavar="ID", help="Only of the turns of this session."),
    click.option("--run", metavar="ID", help="Only of this run."),
)
def logs(client: ControlClient, last: int, follow: bool, session: str | None, run: str | None) -> None:
    """Print the log and what workers print, a JSON object a line."""
    wanted = {"session": session and session_digest(session), "run": run}
    _lines(client, "/logs", last, follow, {name: value for name, value in wanted.items() if value})


def _lines(
    client: ControlClient, path: str, last: int, follow: bool, wanted: dict[str, str] | None = None
) -> None:
    query = {"last": str(KEPT if wanted else last), **({"follow": "1"} if follow else {})}
    try:
        for line in client.lines(path, **query):
            if not wanted or wanted.items() <= json.loads(line).items():
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
    except KeyboardInterrupt:
        sys.exit(0)


# -- what is done -----------------------------------------------------------------------------


@_command(_wait)
def reload(client: ControlClient, wait: bool) -> None:
    """Read agentapp.yaml again and replace the workers. One by one, cutting no turn."""
    _rollout(client, "/reload", wait)


@_command(_wait)
def roll(client: ControlClient, wait: bool) -> None:
    """Replace the workers, with the configuration they have. One by one, cutting no turn."""
    _rollout(client, "/roll", wait)


def _rollout(client: ControlClient, path: str, wait: bool) -> None:
    told = client.post(path, within=None, wait=wait)
    if told.get("note"):
        click.echo(f"note: {told['note']}")
    match told["outcome"]:
        case "refused":
            raise click.ClickException(f"refused, nothing was changed\n{told['reason']}")
        case "failed":
            raise click.ClickException(f"rolled back, the old workers go on\n{told['reason']}")
        case "cut":
            raise click.ClickException(f"the rollout was cut short: {told['reason']}")
        case "done":
            click.echo(f"done: all workers are of edition {told['edition']}")
        case _:
            click.echo(f"started: edition {told['edition']}; see `status`")


@_command(click.argument("slots", metavar="N", type=click.IntRange(1, MAX_WORKERS)))
def scale(client: ControlClient, slots: int) -> None:
    """Have N slots, each with its worker."""
    client.post("/scale", slots=slots)
    click.echo(f"slots wanted: {slots}; see `status`")


@_command(_wait, click.option("--now", is_flag=True, help="Do not wait for running turns."))
def stop(client: ControlClient, wait: bool, now: bool) -> None:
    """Let running turns finish, then end the instance."""
    client.post("/stop", now=now)
    if wait:
        client.wait_end()
    click.echo("stopped" if wait else "stopping")


@_command(click.argument("worker"))
def kill(client: ControlClient, worker: str) -> None:
    """SIGKILL to WORKER, as 0.3, or to all of a slot, as 0."""
    click.echo(f"killed: {client.post('/kill', worker=worker)['killed']}")


@_command(click.argument("slot", type=click.IntRange(0)))
def reset(client: ControlClient, slot: int) -> None:
    """Forget the failures of SLOT; if it waits, start it at once."""
    client.post("/reset", slot=slot)
    click.echo(f"the failures of slot {slot} are forgotten; if it waited, it starts now")


@_command(click.argument("level", type=click.Choice(LEVELS)))
def loglevel(client: ControlClient, level: str) -> None:
    """Set what the supervisor logs, until it ends."""
    client.post("/loglevel", level=level)
    click.echo(f"the log level is {level}")


@_command()
def drain(client: ControlClient) -> None:
    """Take no new turns, and return when no turn is open. `maintenance off` ends it."""
    client.post("/drain", within=None, wait=True)
    click.echo("drained: no turn is open, and none is taken until `maintenance off`")


@_command(click.argument("state", metavar="on|off", type=click.Choice(["on", "off"])))
def maintenance(client: ControlClient, state: str) -> None:
    """Refuse new turns and say not ready, or take them again. Workers stay."""
    client.post("/maintenance", on=state == "on")
    click.echo("new turns are refused" if state == "on" else "turns are taken")


# -- how it is shown --------------------------------------------------------------------------


def _print(lines: Iterable[str], told: Any, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo("\n".join(printable(line.rstrip()) for line in lines))


def _shown_deaths(told: list[dict[str, Any]]) -> list[str]:
    if not told:
        return ["no worker has ended yet"]
    lines = []
    for death in told:
        detail = f" ({death['detail']})" if death["detail"] else ""
        lines.append(f"{clock(death['at'])}  worker {death['worker']}  {death['cause']}{detail}")
        ready = "never ready" if death["ready"] is None else f"ready for {duration(death['ready'])}"
        pid = f"pid {death['pid']}, " if death["pid"] is not None else ""
        lines.append(
            f"    {pid}{death['ended']}, lived {duration(death['lived'])}, {ready},"
            f" turns lost: {death['turns']}"
        )
        if death["cause"] != "asked":
            lines += [f"    | {line}" for line in death["output"][-SHOWN_OUTPUT:]]
            if death["stacks"]:
                lines += ["    its stacks:", *(f"    {line}" for line in death["stacks"])]
    return lines


def _shown_stacks(told: list[dict[str, Any]]) -> list[str]:
    lines = []
    for process in told:
        lines.append(
            process["worker"] if process["worker"] == "supervisor" else f"worker {process['worker']}"
        )
        lines += [f"  {line}" for line in process["lines"]] or ["  no answer: is it stopped?"]
        lines.append("")
    return lines[:-1]
