"""The tokens and the time of model calls, added up for each model.

The numbers are those of AgentScope's own record, `ChatUsage`, which both majors fill from what the provider
reports. A provider that reports nothing counts as nothing. It must not use AgentScope's classes.
"""

from __future__ import annotations

import math
from typing import Any, Final

KEY: Final = "usage"  # in the metadata of the done event
MAX_MODELS: Final = 16  # of one turn; the calls of further ones are added to the last
MAX_NAME: Final = 128  # characters of a model's name


class Tally:
    """The model calls of one turn, or of one reply."""

    __slots__ = ("_models",)

    def __init__(self) -> None:
        self._models: dict[str, list[int | float]] = {}  # by name: calls, tokens in, tokens out, seconds

    def add(self, model: str, usage: Any) -> None:
        """Count a call. `usage`: its ChatUsage."""
        name = model[:MAX_NAME]
        if name not in self._models and len(self._models) >= MAX_MODELS:
            name = next(reversed(self._models))
        sums = self._models.setdefault(name, [0, 0, 0, 0.0])
        sums[0] += 1
        sums[1] += _number(usage.input_tokens)
        sums[2] += _number(usage.output_tokens)
        sums[3] += _number(usage.time)

    @property
    def tokens(self) -> tuple[int, int]:
        """The tokens in and out of all calls."""
        rows = self._models.values()
        return int(sum(row[1] for row in rows)), int(sum(row[2] for row in rows))

    def report(self) -> dict[str, Any] | None:
        """The JSON of the counted calls; None: there are none."""
        if not self._models:
            return None
        models: list[dict[str, Any]] = [
            {
                "model": name,
                "calls": calls,
                "input_tokens": int(tokens_in),
                "output_tokens": int(tokens_out),
                "ms": round(seconds * 1000),
            }
            for name, (calls, tokens_in, tokens_out, seconds) in self._models.items()
        ]
        sums = {key: sum(each[key] for each in models) for key in ("input_tokens", "output_tokens", "ms")}
        return {**sums, "models": models}


def _number(value: object) -> int | float:
    """`value`, if it is one that can be added up."""
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return 0
    return value
