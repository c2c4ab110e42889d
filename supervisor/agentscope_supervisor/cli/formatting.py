"""How numbers, times, exits and stacks of an instance are written for people.

Text that comes from an app, such as the reason of its exit, may contain anything. Commands print it with
`printable` or `shown`.
"""

import calendar
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any, Final

import click

from agentscope_supervisor.domain.printable import printable

Json = Mapping[str, Any]

SHOWN_OUTPUT: Final = 12  # lines of a worker's last output that `death_lines` shows


class Commands(click.Group):
    """A group of commands. Their errors, which may quote an App, contain no control characters."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError:  # about the arguments of the operator
            raise
        except click.ClickException as error:
            raise click.ClickException(printable(error.message)) from None


def shown(text: str, stream: IO[str]) -> str:
    """Return the text as it may be written to this stream: to a terminal without control characters."""
    return printable(text) if stream.isatty() else text


def duration(seconds: float) -> str:
    """Return a length of time in at most two units, such as `1 h 5 min`."""
    whole = int(seconds)
    for size, unit, part_size, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part_size} {part}"
    return f"{whole} s"


def clock(utc: str) -> str:
    """Return a UTC timestamp of the API as local time."""
    at = time.strptime(utc, "%Y-%m-%dT%H:%M:%SZ")
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(calendar.timegm(at)))


def latency(seconds: float | None) -> str:
    """Return a short time with about two digits; `-` if it is not known."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def megabytes(process: Json) -> str:
    """Return the memory of a process in MB, from its JSON object; `-` until it has been measured."""
    return "-" if process["memory_mb"] is None else f"{process['memory_mb']:.0f}"


def counted(counts: Mapping[str, int]) -> str:
    """Return counts by name, the largest first: `3 signal, 1 oom`."""
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    return ", ".join(f"{count} {name}" for name, count in ordered)


def death_lines(deaths: Sequence[Json]) -> list[str]:
    """Return the exits of workers as lines, each with its reason, its last output and its stacks."""
    if not deaths:
        return ["no worker has exited yet"]
    lines = []
    for death in deaths:
        detail = f" ({death['detail']})" if death["detail"] else ""
        lines.append(f"{clock(death['at'])}  worker {death['worker']}  {death['cause']}{detail}")
        ready = "never ready" if death["ready"] is None else f"ready for {duration(death['ready'])}"
        pid = f"pid {death['pid']}, " if death["pid"] is not None else ""
        lines.append(
            f"    {pid}{death['ended']}, ran for {duration(death['lived'])}, {ready},"
            f" lost turns: {death['turns']}"
        )
        if death["cause"] != "asked":
            lines += [f"    | {line}" for line in death["output"][-SHOWN_OUTPUT:]]
            if death["stacks"]:
                lines += ["    stacks:", *(f"    {line}" for line in death["stacks"])]
    return lines


def stack_lines(stacks: Sequence[Json]) -> list[str]:
    """Return the stacks of the supervisor and of each worker as lines."""
    lines = []
    for process in stacks:
        lines.append(
            process["worker"] if process["worker"] == "supervisor" else f"worker {process['worker']}"
        )
        lines += [f"  {line}" for line in process["lines"]] or ["  no answer; the process may be stopped"]
        lines.append("")
    return lines[:-1]
