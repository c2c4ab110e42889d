"""What `status` and `top` show of an instance: its words and its tables, fitted to the width of a terminal.

Made of what `control.handlers` tells, in JSON. Colours only say again what a word says, so that nothing is
lost where there are none. Imports rich, a tenth of a second: only commands that show something may import
this.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentscope_supervisor.cli.formatting import clock, counted, duration, latency, megabytes, printable

Told = Mapping[str, Any]

NARROW: Final = 64
"""Columns below which a table leaves out what a person can do without; 80 and more show all."""

_COLOUR: Final = {
    **dict.fromkeys(("healthy", "ready"), "green"),
    **dict.fromkeys(("starting", "draining", "degraded", "stopping"), "yellow"),
    **dict.fromkeys(("unhealthy", "down", "killing"), "bold red"),
}

# Heading, and whether narrow terminals have the column too.
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
    """Where to print: as wide as the terminal, 80 columns where there is none; no colours there, nor with
    NO_COLOR."""
    return Console(highlight=False, markup=False, emoji=False)


def status(told: Told, width: int) -> RenderableType:
    """The instance, its slots and their workers."""
    return Group(*_head(told), Text(""), _table(_WORKERS, list(_rows(told)), width))


def sessions(told: Sequence[Told], width: int) -> Table:
    """Open sessions, in the order in which they come."""
    rows = [
        (
            Text(printable(s["session_id"])),
            s["worker"] or "waits",
            int(s["run_id"] is not None),
            s["waiting"],
            s["events"],
            duration(s["seconds"]),
        )
        for s in told
    ]
    return _table(_SESSIONS, rows, width)


# -- the head -----------------------------------------------------------------------------------


def _head(told: Told) -> Iterator[RenderableType]:
    up = f", up {duration(told['uptime'])}, "
    yield Text.assemble(told["name"], ": ", _word(told["status"]), up, told["url"])
    if told["unready"] is not None:
        yield _line(f"takes no turns: {told['unready']}", "yellow")
    turns = told["turns"]
    yield _line(
        f"turns {turns['running']} running, {turns['waiting']} waiting, {turns['accepted']} accepted;"
        f" sessions {told['sessions']} in 5 min"
    )
    if told["latency"]["turn"]["p50"] is not None:
        turn, first = told["latency"]["turn"], told["latency"]["first_event"]
        yield _line(f"last turns took {_quantiles(turn)}; first event after {_quantiles(first)}")
    every = [told, *told["workers"], *told["zygotes"]]
    held = sum(process["memory_mb"] or 0.0 for process in every)
    yield _line(
        f"memory {held:.0f} MB; supervisor pid {told['pid']}, {megabytes(told)} MB, {told['version']}"
    )
    yield from _rollout(told)
    platform = told["platform"]
    if platform is not None:
        failing = ", ".join(platform["failing"])
        words = f"fails: {failing} ({platform['failures']} times)" if failing else "reached"
        yield _line(f"platform {platform['instance_id']}: {words}", "yellow" if failing else "")
    if told["store"] is not None:
        yield _line(f"runs and keys are in memory only: {told['store']}", "yellow")
    if told["deaths"]:
        yield _line(f"workers ended: {counted(told['deaths'])}")


def _rollout(told: Told) -> Iterator[RenderableType]:
    edition = f"edition {told['edition']}"
    if told["rolling"]:
        yield _line(f"{edition}; a rollout is under way", "yellow")
    elif told["rollout"] is not None:
        ended = told["rollout"]
        last = f"{edition}; last rollout: edition {ended['edition']}, {clock(ended['at'])}"
        if ended["failure"]:
            yield _line(f"{last}, failed: {ended['failure']}", "red")
        else:
            yield _line(f"{last}, done")
    else:
        yield _line(edition)
    if told["trouble"] and not (told["rollout"] or {}).get("failure"):
        yield _line(f"last reload refused: {told['trouble']}", "red")


def _quantiles(of: Told) -> str:
    return f"{latency(of['p50'])} (p50), {latency(of['p95'])} (p95)"


def _line(text: str, style: str = "") -> Text:
    return Text(printable(text), style, overflow="fold")


# -- the tables ---------------------------------------------------------------------------------


def _rows(told: Told) -> Iterator[Sequence[object]]:
    shown = set()
    for slot in told["slots"]:
        workers = [worker for worker in told["workers"] if worker["slot"] == slot["slot"]]
        note = _note(slot)
        for worker in workers or [None]:
            yield _row(slot, worker, note)
            note = ""
        shown.add(slot["slot"])
    for worker in told["workers"]:  # of slots that are not wanted any more
        if worker["slot"] not in shown:
            yield _row({"slot": worker["slot"], "restarts": ""}, worker, "leaves")
    for zygote in told["zygotes"]:
        yield ("-", "-", zygote["pid"], "zygote", "-", "-", megabytes(zygote), "-", "")


def _row(slot: Told, worker: Told | None, note: str) -> Sequence[object]:
    if worker is None:
        return (slot["slot"], "-", "-", _word("down"), "-", "-", "-", slot["restarts"], printable(note))
    return (
        *(slot["slot"], worker["generation"], worker["pid"] or "-", _word(worker["state"])),
        *(duration(worker["seconds"]), worker["turns"], megabytes(worker), slot["restarts"], printable(note)),
    )


def _note(slot: Told) -> str:
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
    """Columns as wide as their widest cell; the widest text is folded where the terminal is too narrow."""
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
