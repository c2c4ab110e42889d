"""The commands with which an operator sees and steers a running instance, and how they are shown.

Each asks the control socket of one instance. Exit statuses: 0 done, 1 refused, failed or no instance, 2 wrong
usage. What is printed fits 80 columns and has no colours; programs read `--json`.
"""

import calendar
import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from agentscope_protocol.settings_values import MAX_WORKERS
from agentscope_supervisor import instance
from agentscope_supervisor.control_client import ControlClient, Unanswered
from agentscope_supervisor.instance import Address
from agentscope_supervisor.logs import LEVELS

Command = Callable[..., Any]

WIDTH: Final = 80  # columns
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
        found = instance.running(root)
    except instance.InstanceError as error:
        raise click.ClickException(str(error)) from None
    if name is not None:
        matching = [address for address in found if address.name == name]
    else:
        matching = [address for address in found if address.project == str(project.resolve())] or found
    if len(matching) == 1:
        return matching[0]
    if not found:
        raise click.ClickException(f"no instance is running (looked in {root / instance.PROGRAM})")
    names = ", ".join(address.name for address in found)
    raise click.UsageError(f"say which instance with --name; running: {names}")


def _root(runtime_dir: Path | None) -> Path:
    return instance.runtime_dir(runtime_dir, os.environ, os.getuid())


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
    _print(_shown_status(told), told, as_json)


@_command(_json, click.option("-n", "last", metavar="N", type=click.IntRange(1), help="The last N only."))
def deaths(client: ControlClient, as_json: bool, last: int | None) -> None:
    """Show how workers ended, with their last lines and stacks."""
    told = client.get("/deaths")[-(last or 0) :]
    _print(_shown_deaths(told), told, as_json)


@_command(_json)
def sessions(client: ControlClient, as_json: bool) -> None:
    """Show the sessions with open turns. Their ids are as clients sent them."""
    told = client.get("/sessions")
    head = ("SESSION", "WORKER", "TURNS", "EVENTS", "FOR")
    rows = [
        (s["session"], s["worker"] or "waits", s["turns"], s["events"], _duration(s["seconds"])) for s in told
    ]
    _print(_table(head, rows) if rows else ["no turn is open"], told, as_json)


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


@_command(_last, _follow)
def logs(client: ControlClient, last: int, follow: bool) -> None:
    """Print the log and what workers print, a JSON object a line."""
    _lines(client, "/logs", last, follow)


def _lines(client: ControlClient, path: str, last: int, follow: bool) -> None:
    query = {"last": str(last), **({"follow": "1"} if follow else {})}
    try:
        for line in client.lines(path, **query):
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
    click.echo(f"{slots} slots are wanted; see `status`")


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
        click.echo("\n".join(line.rstrip() for line in lines))


def _shown_status(told: dict[str, Any]) -> list[str]:
    turns, lines = told["turns"], []
    lines.append(f"{told['name']}: {told['status']}, up {_duration(told['uptime'])}, {told['url']}")
    if told["unready"] is not None:
        lines.append(f"takes no turns: {told['unready']}")
    lines.append(
        f"turns {turns['open']} open, {turns['accepted']} accepted; edition {told['edition']};"
        f" supervisor pid {told['pid']}, {_megabytes(told)} MB, {told['version']}"
    )
    if told["rolling"]:
        lines.append("a rollout is under way")
    elif told["rollout"] is not None:
        ended = told["rollout"]
        lines.append(f"last rollout: edition {ended['edition']}, {_local(ended['at'])}, {_said(ended)}")
    lines.append("")
    lines += _table(("SLOT", "GEN", "PID", "STATE", "FOR", "TURNS", "MB", "RESTARTS", "NOTE"), _rows(told))
    return [part for line in lines for part in textwrap.wrap(line, 2 * WIDTH) or [""]]


def _said(rollout: dict[str, Any]) -> str:
    return f"failed: {rollout['failure']}" if rollout["failure"] else "done"


def _rows(told: dict[str, Any]) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = []
    shown = set()
    for slot in told["slots"]:
        workers = [worker for worker in told["workers"] if worker["slot"] == slot["slot"]]
        note = _note(slot)
        for worker in workers or [None]:
            rows.append(_row(slot, worker, note))
            note = ""
        shown.add(slot["slot"])
    for worker in told["workers"]:  # of slots that are not wanted any more
        if worker["slot"] not in shown:
            rows.append(_row({"slot": worker["slot"], "restarts": ""}, worker, "leaves"))
    for zygote in told["zygotes"]:
        rows.append(("-", "-", zygote["pid"], "zygote", "-", "-", _megabytes(zygote), "-", ""))
    return rows


def _megabytes(process: dict[str, Any]) -> str:
    return "-" if process["memory_mb"] is None else f"{process['memory_mb']:.0f}"


def _row(slot: dict[str, Any], worker: dict[str, Any] | None, note: str) -> Sequence[object]:
    if worker is None:
        return (slot["slot"], "-", "-", "down", "-", "-", "-", slot["restarts"], note)
    return (
        *(slot["slot"], worker["generation"], worker["pid"] or "-", worker["state"]),
        *(_duration(worker["seconds"]), worker["turns"]),
        _megabytes(worker),
        *(slot["restarts"], note),
    )


def _note(slot: dict[str, Any]) -> str:
    parts = []
    if slot["breaker_open"]:
        parts.append("breaker open")
    if slot["starts_in"] is not None:
        parts.append(f"starts in {_duration(slot['starts_in'])}")
    last = slot["last_death"]
    if last is not None and slot["restarts"]:
        parts.append(f"last: {last['cause']}")
    return ", ".join(parts)


def _shown_deaths(told: list[dict[str, Any]]) -> list[str]:
    if not told:
        return ["no worker has ended yet"]
    lines = []
    for death in told:
        detail = f" ({death['detail']})" if death["detail"] else ""
        lines.append(f"{_local(death['at'])}  worker {death['worker']}  {death['cause']}{detail}")
        ready = "never ready" if death["ready"] is None else f"ready for {_duration(death['ready'])}"
        pid = f"pid {death['pid']}, " if death["pid"] is not None else ""
        lines.append(
            f"    {pid}{death['ended']}, lived {_duration(death['lived'])}, {ready},"
            f" {death['turns']} turns lost"
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


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    cells = [head, *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]


def _duration(seconds: float) -> str:
    """A length of time in at most two units."""
    whole = int(seconds)
    for size, unit, part_size, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part_size} {part}"
    return f"{whole} s"


def _local(utc: str) -> str:
    """A time of the API, in the clock of the one who reads it."""
    at = time.strptime(utc, "%Y-%m-%dT%H:%M:%SZ")
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(calendar.timegm(at)))
