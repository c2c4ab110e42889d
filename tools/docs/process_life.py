"""docs/concepts/process-life.svg: the life of a worker process, from its table of transitions. Pure."""

from collections.abc import Mapping
from typing import Final

from agentscope_supervisor.workers.lifecycle import TABLE, Expired, ProcessState
from tools.docs.svg import arrow, box, drawing, text

MEANING: Final[Mapping[ProcessState, str]] = {
    ProcessState.STARTING: "starts; not ready yet",
    ProcessState.READY: "takes turns",
    ProcessState.DRAINING: "finishes its turns",
    ProcessState.STOPPING: "runs App.on_shutdown",
    ProcessState.KILLING: "SIGKILL was sent",
    ProcessState.GONE: "the kernel reported its exit",
}

DEADLINES: Final[Mapping[ProcessState, str]] = {
    ProcessState.STARTING: "start_timeout",
    ProcessState.DRAINING: "drain_timeout (instance stop)",
    ProcessState.STOPPING: "stop_timeout",
}
"""The setting under `supervisor` that bounds each state which can expire."""

Edge = tuple[ProcessState, ProcessState]

LEFT, WIDTH, HEIGHT, GAP, TOP = 84, 224, 58, 50, 28  # the column of boxes, in pixels
LANE, FIRST_LANE = 30, 226  # right of the boxes, one lane for each state that others jump to


def edges() -> dict[Edge, list[str]]:
    """The transitions by source and target, with the names of their events."""
    found: dict[Edge, list[str]] = {}
    for (state, event), (target, _) in sorted(TABLE.items(), key=lambda each: each[0][0]):
        found.setdefault((state, target), []).append(event.__name__)
    return found


def expiring() -> set[ProcessState]:
    """The states in which a deadline can pass."""
    return {state for state, event in TABLE if event is Expired}


def _top(state: ProcessState) -> int:
    return TOP + (state - 1) * (HEIGHT + GAP)


def _middle(state: ProcessState) -> int:
    return _top(state) + HEIGHT // 2


def picture() -> str:
    """The picture: states from top to bottom, jumps in lanes on the right, exits on the left."""
    last = max(ProcessState)
    found = edges()
    jumps = {edge: events for edge, events in found.items() if edge[1] - edge[0] > 1 and edge[1] is not last}
    targets = sorted({target for _, target in jumps})
    width = LEFT + WIDTH + FIRST_LANE + LANE * len(targets)
    parts: list[str] = []
    for (state, target), events in found.items():
        label = ", ".join(events)
        if target - state == 1:
            parts += _step(state, target, label)
        elif target is last:
            parts += _exit(state, target, label)
        else:
            ways = sorted(to for start, to in jumps if start is state)
            parts += _jump(state, target, label, ways.index(target), len(ways), targets.index(target))
    for state in ProcessState:
        parts += _state(state)
    height = _top(last) + HEIGHT + TOP
    return drawing(width, height, "The life of a worker process", _description(found), parts)


def _state(state: ProcessState) -> list[str]:
    centre, top = LEFT + WIDTH // 2, _top(state)
    deadline = DEADLINES.get(state)
    parts = [box(LEFT, top, WIDTH, HEIGHT)]
    lines = [(state.name, "name"), (MEANING[state], "small")]
    if deadline is not None:
        lines.append((f"≤ {deadline}", "small"))
    first = top + HEIGHT // 2 + 4 - 8 * (len(lines) - 1)
    return parts + [text(centre, first + 16 * number, *line) for number, line in enumerate(lines)]


def _step(state: ProcessState, target: ProcessState, label: str) -> list[str]:
    centre, start, end = LEFT + WIDTH // 2, _top(state) + HEIGHT, _top(target)
    line = arrow(f"M{centre} {start} V{end - 6}", (centre, end), "down", "strong")
    return [line, text(centre + 10, (start + end) // 2 + 4, label, anchor="start")]


def _jump(
    state: ProcessState, target: ProcessState, label: str, number: int, ways: int, lane: int
) -> list[str]:
    right = LEFT + WIDTH
    x = right + FIRST_LANE - 20 + LANE * lane
    y = _top(state) + HEIGHT * (number + 1) // (ways + 1)
    end = _middle(target) - 8 + 16 * (lane % 2)
    line = arrow(f"M{right} {y} H{x} V{end} H{right + 6}", (right, end), "left")
    return [line, text(right + 10, y - 5, label, "small", anchor="start")]


def _exit(state: ProcessState, target: ProcessState, label: str) -> list[str]:
    x, y, end = LEFT - 28, _middle(state), _middle(target)
    line = arrow(f"M{LEFT} {y} H{x} V{end} H{LEFT - 6}", (LEFT, end), "right")
    return [line, text(x - 6, y + 4, label, "small", anchor="end")]


def _description(found: Mapping[Edge, list[str]]) -> str:
    told = (f"{state.name} to {to.name}: {', '.join(events)}" for (state, to), events in found.items())
    return "; ".join(told)
