"""The text and tables of `status` and `top`, fitted to the width of a terminal.

The input is the JSON that `control.handlers` returns. A colour only repeats what a word already says, so
nothing is lost without colours. Importing rich takes about 0.1 s: only commands that print tables may import
this module.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentscope_supervisor.cli.formatting import clock, counted, duration, latency, megabytes
from agentscope_supervisor.domain.printable import printable

Json = Mapping[str, Any]

NARROW: Final = 64
"""Columns of a terminal below which tables omit less important columns; with 80 and more they show all."""

_COLOUR: Final = {
    **dict.fromkeys(("healthy", "ready"), "green"),
    **dict.fromkeys(("starting", "draining", "degraded", "stopping"), "yellow"),
    **dict.fromkeys(("unhealthy", "down", "killing"), "bold red"),
}

# Heading, and whether narrow terminals show the column.
_WORKERS: Final = (
    *(("SLOT", True), ("GEN", True), ("PID", False), ("STATE", True), ("FOR", True), ("TURNS", True)),
    *(("MB", True), ("RESTARTS", False), ("NOTE", True)),
)
_SESSIONS: Final = (
    ("SESSION", True),
    ("WORKER", True),
    ("RUNS", True),
    ("WAIT", True),
    ("EVENTS", False),
    ("FOR", True),
)


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
        )
        for s in open_sessions
    ]
    return _table(_SESSIONS, rows, width)


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
        yield ("-", "-", zygote["pid"], "zygote", "-", "-", megabytes(zygote), "-", "")


def _row(slot: Json, worker: Json | None, note: str) -> Sequence[object]:
    if worker is None:
        return (slot["slot"], "-", "-", _word("down"), "-", "-", "-", slot["restarts"], printable(note))
    return (
        *(slot["slot"], worker["generation"], worker["pid"] or "-", _word(worker["state"])),
        *(duration(worker["seconds"]), worker["turns"], megabytes(worker), slot["restarts"], printable(note)),
    )


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


def _table(columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[object]], width: int) -> Table:
    """Return a table whose columns are as wide as their widest cell; long texts fold in a narrow terminal."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    chosen = [at for at, (_, always) in enumerate(columns) if always or width >= NARROW]
    for at in chosen:
        name = columns[at][0]
        table.add_column(name, no_wrap=name not in ("NOTE", "SESSION"), overflow="fold")
    for row in rows:
        cells = [row[at] for at in chosen]
        table.add_row(*(cell if isinstance(cell, Text) else str(cell) for cell in cells))
    return table


def _word(state: str) -> Text:
    return Text(state, _COLOUR.get(state, ""))
