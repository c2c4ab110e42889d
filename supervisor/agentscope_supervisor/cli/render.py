"""The text and tables of `status` and `top`, fitted to the width of a terminal.

The input is the JSON that `control.handlers` returns. A colour only repeats what a word already says, so
nothing is lost without colours. Importing rich takes about 0.1 s: only commands that print tables may import
this module.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentscope_supervisor.cli.formatting import clock, counted, duration, latency, megabytes
from agentscope_supervisor.domain.printable import printable

Json = Mapping[str, Any]

NARROW: Final = 64
"""Columns of a terminal below which tables omit less important columns; with 80 and more they show all that
fit."""

WIDE: Final = 120
"""Columns of a terminal from which tables have one more column, with details."""

_COLOUR: Final = {
    **dict.fromkeys(("healthy", "ready"), "green"),
    **dict.fromkeys(("starting", "draining", "degraded", "stopping"), "yellow"),
    **dict.fromkeys(("unhealthy", "down", "killing"), "bold red"),
}

# Heading, the width from which a terminal shows the column, and whether it has numbers, which are aligned.
_Columns = Sequence[tuple[str, int, bool]]

_WORKERS: Final[_Columns] = (
    *(("SLOT", 0, True), ("GEN", 0, True), ("PID", NARROW, True), ("STATE", 0, False), ("FOR", 0, True)),
    *(("TURNS", 0, True), ("MB", 0, True), ("RESTARTS", NARROW, True), ("NOTE", 0, False)),
    ("LAST EXIT", WIDE, False),
)
_SESSIONS: Final[_Columns] = (
    *(("SESSION", 0, False), ("WORKER", 0, True), ("RUNS", 0, True), ("WAIT", 0, True)),
    *(("EVENTS", NARROW, True), ("FOR", 0, True), ("RUN", WIDE, False)),
)
_FOLDED: Final = ("NOTE", "SESSION", "LAST EXIT")  # columns of texts

_LEVEL_COLOUR: Final = {"warning": "yellow", "error": "bold red", "critical": "bold red", "debug": "dim"}
_OF_RECORD: Final = ("ts", "level", "message", "exception")


def screen() -> Console:
    """Return the console to print to: as wide as the terminal.

    Without a terminal it has 80 columns and no colours. NO_COLOR turns colours off.
    """
    return Console(highlight=False, markup=False, emoji=False)


def status(instance: Json, width: int) -> RenderableType:
    """Return the summary of the instance and the table of its slots and workers."""
    return Group(*_head(instance), Text(""), _table(_WORKERS, list(_rows(instance)), width))


def sessions(open_sessions: Sequence[Json], width: int) -> Table:
    """Return the table of open sessions, in the given order."""
    rows = [
        (
            Text(printable(s["session_id"])),
            s["worker"] or "waiting",
            int(s["run_id"] is not None),
            s["waiting"],
            s["events"],
            duration(s["seconds"]),
            s["run_id"] or "",
        )
        for s in open_sessions
    ]
    return _table(_SESSIONS, rows, width)


def log_line(entry: Json) -> Text:
    """Return a line of `logs` or `events`: time, level, message and fields, in the form of a text log.

    Further lines of a message, and those of a traceback, are indented.
    """
    level, worker = str(entry.get("level", "")), entry.get("worker")
    message, *more = (printable(line) for line in str(entry.get("message", "")).split("\n"))
    fields = {name: value for name, value in entry.items() if name not in _OF_RECORD}
    if worker is not None:  # its label has both numbers
        fields = {name: value for name, value in fields.items() if name not in ("slot", "generation")}
    text = Text.assemble(
        (_time_of_day(str(entry.get("ts", ""))), "dim"),
        " ",
        (f"{level:7}", _LEVEL_COLOUR.get(level, "")),
        f" {message}",
    )
    for name, value in fields.items():
        text.append(f" {name}=", "dim")
        text.append(printable(str(value)))
    for line in [*more, *map(printable, str(entry.get("exception") or "").splitlines())]:
        text.append(f"\n    {line}")
    return text


def _time_of_day(utc: str) -> str:
    """The local time of a timestamp of the log, with its milliseconds."""
    whole, dot, rest = utc.removesuffix("Z").partition(".")
    return f"{clock(f'{whole}Z').partition(' ')[2]}.{rest}" if dot else utc


# -- the summary --------------------------------------------------------------------------------


def _head(instance: Json) -> Iterator[RenderableType]:
    up = f", up {duration(instance['uptime'])}, "
    yield Text.assemble(instance["name"], ": ", _word(instance["status"]), up, instance["url"])
    if instance["unready"] is not None:
        yield _line(f"refuses turns: {instance['unready']}", "yellow")
    turns = instance["turns"]
    yield _line(
        f"turns: {turns['running']} running, {turns['waiting']} waiting, {turns['accepted']} accepted;"
        f" active sessions: {instance['sessions']} in 5 min"
    )
    if instance["latency"]["turn"]["p50"] is not None:
        turn, first = instance["latency"]["turn"], instance["latency"]["first_event"]
        yield _line(f"latency: {_quantiles(turn)}; first event: {_quantiles(first)}")
    processes = [instance, *instance["workers"], *instance["zygotes"]]
    held = sum(process["memory_mb"] or 0.0 for process in processes)
    supervisor = f"pid {instance['pid']}, {megabytes(instance)} MB, version {instance['version']}"
    yield _line(f"memory: {held:.0f} MB; supervisor: {supervisor}")
    yield from _rollout(instance)
    platform = instance["platform"]
    if platform is not None:
        failing = ", ".join(platform["failing"])
        words = f"failing: {failing} ({platform['failures']} failures)" if failing else "connected"
        yield _line(f"platform {platform['instance_id']}: {words}", "yellow" if failing else "")
    if instance["store"] is not None:
        yield _line(f"runs and idempotency keys are kept in memory only: {instance['store']}", "yellow")
    if instance["deaths"]:
        yield _line(f"worker exits: {counted(instance['deaths'])}")


def _rollout(instance: Json) -> Iterator[RenderableType]:
    revision = f"revision {instance['edition']}"
    if instance["rolling"]:
        yield _line(f"{revision}; rollout in progress", "yellow")
    elif instance["rollout"] is not None:
        ended = instance["rollout"]
        last = f"{revision}; last rollout: revision {ended['edition']}, {clock(ended['at'])}"
        if ended["failure"]:
            yield _line(f"{last}, failed: {ended['failure']}", "red")
        else:
            yield _line(f"{last}, done")
    else:
        yield _line(revision)
    if instance["trouble"] and not (instance["rollout"] or {}).get("failure"):
        yield _line(f"last reload refused: {instance['trouble']}", "red")


def _quantiles(times: Json) -> str:
    return f"{latency(times['p50'])} (p50), {latency(times['p95'])} (p95)"


def _line(text: str, style: str = "") -> Text:
    return Text(printable(text), style, overflow="fold")


# -- the tables ---------------------------------------------------------------------------------


def _rows(instance: Json) -> Iterator[Sequence[object]]:
    shown = set()
    for slot in instance["slots"]:
        workers = [worker for worker in instance["workers"] if worker["slot"] == slot["slot"]]
        note = _note(slot)
        for worker in workers or [None]:
            yield _row(slot, worker, note)
            note = ""
        shown.add(slot["slot"])
    for worker in instance["workers"]:  # workers of slots that `scale` has removed
        if worker["slot"] not in shown:
            yield _row({"slot": worker["slot"], "restarts": ""}, worker, "leaving")
    for zygote in instance["zygotes"]:
        yield ("-", "-", zygote["pid"], "zygote", "-", "-", megabytes(zygote), "-", "", "")


def _row(slot: Json, worker: Json | None, note: str) -> Sequence[object]:
    if worker is None:
        process: Sequence[object] = ("-", "-", _word("down"), "-", "-", "-")
    else:
        process = (
            *(worker["generation"], worker["pid"] or "-", _word(worker["state"])),
            *(duration(worker["seconds"]), worker["turns"], megabytes(worker)),
        )
    restarts = Text(str(slot["restarts"]), "yellow" if slot["restarts"] else "")
    urgent = "bold red" if slot.get("breaker_open") else ""
    return (slot["slot"], *process, restarts, Text(printable(note), urgent), _last_exit(slot) if note else "")


def _last_exit(slot: Json) -> str:
    """When and why the last process of a slot exited, if it was not asked to."""
    last = slot.get("last_death")
    if last is None or last["cause"] == "asked" or "at" not in last:
        return ""
    return printable(": ".join([clock(last["at"]), *([last["detail"]] if last["detail"] else [])]))


def _note(slot: Json) -> str:
    parts = []
    if slot["breaker_open"]:
        parts.append("breaker open")
    if slot["starts_in"] is not None:
        parts.append(f"starts in {duration(slot['starts_in'])}")
    last = slot["last_death"]
    if last is not None and slot["restarts"] and last["cause"] != "asked":
        parts.append(f"last: {last['cause']}")
    return ", ".join(parts)


def _table(columns: _Columns, rows: Sequence[Sequence[object]], width: int) -> Table:
    """Return a table whose columns are as wide as their widest cell; long texts fold in a narrow terminal."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    chosen = [at for at, (_, from_width, _) in enumerate(columns) if width >= from_width]
    for at in chosen:
        name, _, is_number = columns[at]
        justify: Literal["left", "right"] = "right" if is_number else "left"
        table.add_column(name, no_wrap=name not in _FOLDED, overflow="fold", justify=justify)
    for row in rows:
        cells = [row[at] for at in chosen]
        table.add_row(*(cell if isinstance(cell, Text) else str(cell) for cell in cells))
    return table


def _word(state: str) -> Text:
    return Text(state, _COLOUR.get(state, ""))
