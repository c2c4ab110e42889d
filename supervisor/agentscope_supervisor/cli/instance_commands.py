"""The commands with which an operator inspects and controls a running instance.

Each command sends requests to the control socket of one instance. Exit statuses: 0 success, 1 refused,
failed or no instance running, 2 wrong usage. Output for people comes from `render` and `top`, which are
imported only when needed; programs use `--json`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from agentscope_protocol.config.setting_types import MAX_WORKERS
from agentscope_protocol.wire.log_lines import session_digest
from agentscope_supervisor.cli.formatting import death_lines, stack_lines
from agentscope_supervisor.control.client import ControlClient, ControlError
from agentscope_supervisor.domain.printable import printable
from agentscope_supervisor.system import instance_dir
from agentscope_supervisor.system.instance_dir import Address
from agentscope_supervisor.system.log_buffer import KEPT
from agentscope_supervisor.system.log_setup import LEVELS

if TYPE_CHECKING:
    from agentscope_supervisor.client import Client

Command = Callable[..., Any]

_RUNTIME_DIR: Final = (
    "Folder with the lock and the control socket of each instance.  [default: $RUNTIME_DIRECTORY, else"
    " $XDG_RUNTIME_DIR, else /run as root, else a folder in the temporary directory]"
)


FOUND: Final = "the instance of the current folder, or the only one"
"""How a command that gets no name finds its instance."""


def instance_options(default_name: str) -> Callable[[Command], Command]:
    """Add the options that identify an instance. `default_name`: for the help text of --name."""

    def decorate(command: Command) -> Command:
        directory = click.Path(path_type=Path, file_okay=False)
        named = click.option("--name", help=f"Name of the instance.  [default: {default_name}]")
        decorated: Command = click.option("--runtime-dir", type=directory, help=_RUNTIME_DIR)(named(command))
        return decorated

    return decorate


def find(name: str | None, runtime_dir: Path | None, project: Path, *, only_it: bool = False) -> Address:
    """Return the running instance that a command refers to: by name, by project folder, or the only one.

    `only_it`: without a name, only an instance of `project` is meant.
    Raises: click.ClickException if it is not running, click.UsageError if the choice is not clear.
    """
    root = _root(runtime_dir)
    try:
        found = instance_dir.running(root)
    except instance_dir.InstanceError as error:
        raise click.ClickException(str(error)) from None
    if name is not None:
        matching = [address for address in found if address.name == name]
    else:
        matching = [address for address in found if address.project == str(project.resolve())]
        if not matching and not only_it:
            matching = found
    if len(matching) == 1:
        return matching[0]
    if not found:
        raise click.ClickException(f"no instance is running (looked in {root / instance_dir.PROGRAM})")
    if matching:
        names = ", ".join(address.name for address in matching)
        raise click.UsageError(f"several instances are running; select one with --name: {names}")
    what = f"named {name!r}" if name is not None else f"of {project.resolve()}"
    names = ", ".join(f"{address.name} ({address.project})" for address in found)
    raise click.ClickException(
        f"no instance {what} is running; select one of the running instances with --name: {names}"
    )


def client(url: str, token: str | None) -> Client:
    """A client of the instance at `url`, for commands that act as a client does."""
    from agentscope_supervisor.client import Client

    # Without a token, the instance serves no other name, such as the address of a network that it listens on.
    return Client(url, token=token, retries=2, headers={"Host": "localhost"} if token is None else None)


def _root(runtime_dir: Path | None) -> Path:
    return instance_dir.runtime_dir(runtime_dir, os.environ, os.getuid())


COMMANDS: Final[list[click.Command]] = []


def _command(*options: Command, name: str | None = None) -> Callable[[Command], click.Command]:
    """Register a command on one running instance.

    The function gets the `ControlClient` of the instance as its first argument.
    """

    def decorate(function: Command) -> click.Command:
        @wraps(function)
        def run(name: str | None, runtime_dir: Path | None, **arguments: Any) -> None:
            client = ControlClient(_root(runtime_dir), find(name, runtime_dir, Path()))
            try:
                function(client, **arguments)
            except ControlError as error:
                raise click.ClickException(str(error)) from None

        decorated = instance_options(FOUND)(run)
        for option in reversed(options):
            decorated = option(decorated)
        command = click.command(name)(decorated)
        COMMANDS.append(command)
        return command

    return decorate


_json: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_wait: Final = click.option("--wait", is_flag=True, help="Wait until the operation has completed.")


# -- queries ----------------------------------------------------------------------------------


@_command(_json)
def status(client: ControlClient, as_json: bool) -> None:
    """Show the instance, its slots and its workers."""
    answer = client.get("/status")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        _show_status(answer)


def _show_status(instance: dict[str, Any]) -> None:
    from agentscope_supervisor.cli import render

    screen = render.screen()
    screen.print(render.status(instance, screen.width))


@_command(
    click.option(
        "--every",
        type=click.FloatRange(0.1),
        default=1.0,
        show_default=True,
        help="Seconds between two updates.",
    ),
    click.option("--once", is_flag=True, help="Print the view once and exit."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object per update."),
)
def top(client: ControlClient, every: float, once: bool, as_json: bool) -> None:
    """Show a live view of the instance and its open sessions.

    `q` quits, `s` changes the sort order of the sessions. Without a terminal the view is printed once.
    """
    from agentscope_supervisor.cli import top

    once = once or not (as_json or (sys.stdin.isatty() and sys.stdout.isatty()))
    try:
        if as_json:
            _print_updates(client, every, once)
        elif once:
            _show_status(client.get("/status"))
            click.echo()
            _show_sessions(client.get("/sessions"))
        else:
            top.run(client, every)
    except KeyboardInterrupt:
        sys.exit(0)


def _print_updates(client: ControlClient, every: float, once: bool) -> None:
    while True:
        update = {**client.get("/status"), "open_sessions": client.get("/sessions")}
        sys.stdout.write(json.dumps(update) + "\n")
        sys.stdout.flush()
        if once:
            return
        time.sleep(every)


@_command(
    _json, click.option("-n", "last", metavar="N", type=click.IntRange(1), help="Show the last N only.")
)
def deaths(client: ControlClient, as_json: bool, last: int | None) -> None:
    """Show why workers exited, with their last output and stacks."""
    answer = client.get("/deaths")[-(last or 0) :]
    _print(death_lines(answer), answer, as_json)


@_command(_json)
def sessions(client: ControlClient, as_json: bool) -> None:
    """List the sessions with open turns.

    Session ids are shown as clients sent them.
    """
    answer = client.get("/sessions")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        _show_sessions(answer)


def _show_sessions(open_sessions: list[dict[str, Any]]) -> None:
    from agentscope_supervisor.cli import render

    screen = render.screen()
    if open_sessions:
        screen.print(render.sessions(open_sessions, screen.width))
    else:
        screen.print("no open turns")


@_command(_json)
def stacks(client: ControlClient, as_json: bool) -> None:
    """Show the current stacks of the supervisor and its workers."""
    answer = client.get("/stacks")
    _print(stack_lines(answer), answer, as_json)


_follow: Final = click.option("-f", "--follow", is_flag=True, help="Keep printing new lines as they arrive.")
_last: Final = click.option(
    "-n",
    "last",
    metavar="N",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Start with the last N lines that the supervisor has kept.",
)


_json_lines: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON lines on a terminal too; a pipe always gets them."
)


@_command(_last, _follow, _json_lines)
def events(client: ControlClient, last: int, follow: bool, as_json: bool) -> None:
    """Print the supervisor's log.

    A terminal shows text; a pipe gets one JSON object per line.
    """
    _lines(client, "/events", last, follow, as_json)


@_command(
    _last,
    _follow,
    _json_lines,
    click.option("--session", metavar="ID", help="Only lines of this session's turns."),
    click.option("--run", metavar="ID", help="Only lines of this run."),
)
def logs(
    client: ControlClient, last: int, follow: bool, as_json: bool, session: str | None, run: str | None
) -> None:
    """Print the supervisor's log and the output of its workers.

    A terminal shows text; a pipe gets one JSON object per line. With --session or --run, all lines that the
    supervisor has kept are searched.
    """
    wanted = {"session": session and session_digest(session), "run": run}
    _lines(client, "/logs", last, follow, as_json, {name: value for name, value in wanted.items() if value})


def _lines(
    client: ControlClient,
    path: str,
    last: int,
    follow: bool,
    as_json: bool,
    wanted: dict[str, str] | None = None,
) -> None:
    show = _json_line if as_json or not sys.stdout.isatty() else _text_line()
    query = {"last": str(KEPT if wanted else last), **({"follow": "1"} if follow else {})}
    try:
        for line in client.lines(path, **query):
            if not wanted or wanted.items() <= json.loads(line).items():
                show(line)
    except KeyboardInterrupt:
        sys.exit(0)


def _json_line(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _text_line() -> Callable[[bytes], None]:
    from agentscope_supervisor.cli import render

    screen = render.screen()
    # A long line continues in the next row of the terminal, and stays one line when it is copied.
    return lambda line: screen.print(render.log_line(json.loads(line)), soft_wrap=True)


# -- actions ----------------------------------------------------------------------------------


@_command(_wait)
def reload(client: ControlClient, wait: bool) -> None:
    """Read agentapp.yaml again and replace all workers.

    Workers are replaced one by one, and no turn is interrupted. If a new worker fails, workers that were
    already replaced roll back to the previous configuration.
    """
    _rollout(client, "/reload", wait)


@_command(_wait)
def roll(client: ControlClient, wait: bool) -> None:
    """Replace all workers without reading agentapp.yaml again.

    Workers are replaced one by one, and no turn is interrupted.
    """
    _rollout(client, "/roll", wait)


def _rollout(client: ControlClient, path: str, wait: bool) -> None:
    rollout = client.post(path, within=None, wait=wait)
    if rollout.get("note"):
        click.echo(f"note: {rollout['note']}")
    match rollout["outcome"]:
        case "refused":
            raise click.ClickException(f"refused, nothing has changed\n{rollout['reason']}")
        case "failed":
            raise click.ClickException(f"failed, rolled back to the previous workers\n{rollout['reason']}")
        case "cut":
            raise click.ClickException(f"the rollout was interrupted: {rollout['reason']}")
        case "done":
            click.echo(f"done: all workers run revision {rollout['edition']}")
        case _:
            click.echo(f"started: revision {rollout['edition']}; `status` shows the progress")


@_command(click.argument("slots", metavar="N", type=click.IntRange(1, MAX_WORKERS)))
def scale(client: ControlClient, slots: int) -> None:
    """Set the number of worker slots to N."""
    client.post("/scale", slots=slots)
    click.echo(f"scaling to {slots} slots; `status` shows the progress")


@_command(_wait, click.option("--now", is_flag=True, help="Stop at once, without waiting for running turns."))
def stop(client: ControlClient, wait: bool, now: bool) -> None:
    """Stop the instance when its running turns have ended.

    Turns that run longer than supervisor.drain_timeout are cancelled.
    """
    client.post("/stop", now=now)
    if wait:
        client.wait_end()
    click.echo("stopped" if wait else "stopping")


@_command(click.argument("worker"))
def kill(client: ControlClient, worker: str) -> None:
    """Send SIGKILL to one worker, or to all workers of a slot.

    WORKER is the name of a worker, such as 0.3 (slot 0, generation 3), or the number of a slot, such as 0.
    """
    click.echo(f"killed: {client.post('/kill', worker=worker)['killed']}")


@_command(click.argument("slot", type=click.IntRange(0)))
def reset(client: ControlClient, slot: int) -> None:
    """Clear the failures of SLOT and start its worker now.

    A slot whose workers fail repeatedly waits before each new start. `reset` ends the wait.
    """
    client.post("/reset", slot=slot)
    click.echo(f"slot {slot}: failures cleared; a worker that waits for its restart starts now")


@_command(click.argument("level", type=click.Choice(LEVELS)))
def loglevel(client: ControlClient, level: str) -> None:
    """Set the supervisor's log level until it stops."""
    client.post("/loglevel", level=level)
    click.echo(f"log level: {level}")


@_command()
def drain(client: ControlClient) -> None:
    """Refuse new turns and wait until no turn is open.

    The workers keep running. `maintenance off` accepts turns again.
    """
    client.post("/drain", within=None, wait=True)
    click.echo("drained: no turn is open; new turns are refused until `maintenance off`")


@_command(click.argument("state", metavar="on|off", type=click.Choice(["on", "off"])))
def maintenance(client: ControlClient, state: str) -> None:
    """Refuse new turns and report not ready, or accept turns again.

    The workers keep running.
    """
    client.post("/maintenance", on=state == "on")
    click.echo(f"maintenance {state}: new turns are {'refused' if state == 'on' else 'accepted'}")


# -- output -----------------------------------------------------------------------------------


def _print(lines: Iterable[str], answer: Any, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        click.echo("\n".join(printable(line.rstrip()) for line in lines))
