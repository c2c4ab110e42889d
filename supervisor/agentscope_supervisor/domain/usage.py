"""The tokens and the time that the model calls of a turn used, as its worker reports them. Pure.

A worker may send anything: `read` accepts only the documented form, within bounds.
"""

from dataclasses import dataclass
from typing import Any, Final

import orjson

MAX_MODELS: Final = 32  # of one turn
MAX_NAME: Final = 128  # characters of the name of a model
MAX_COUNT: Final = 2**53  # what JavaScript and JSON can hold


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """The calls of one model. `ms`: milliseconds, of all calls together."""

    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    ms: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The model calls of one turn."""

    models: tuple[ModelUsage, ...]

    @property
    def input_tokens(self) -> int:
        return sum(each.input_tokens for each in self.models)

    @property
    def output_tokens(self) -> int:
        return sum(each.output_tokens for each in self.models)

    @property
    def fields(self) -> dict[str, Any]:
        """The JSON that clients see."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "ms": sum(each.ms for each in self.models),
            "models": [
                {
                    "model": each.model,
                    "calls": each.calls,
                    "input_tokens": each.input_tokens,
                    "output_tokens": each.output_tokens,
                    "ms": each.ms,
                }
                for each in self.models
            ],
        }

    @property
    def metadata(self) -> bytes:
        """The JSON object for the metadata of a done event."""
        return orjson.dumps({"usage": self.fields})


def read(payload: bytes) -> Usage | None:
    """The usage in what a worker has sent, or the store has kept; None: it is none."""
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    models = value.get("models") if isinstance(value, dict) else None
    if not isinstance(models, list) or not 1 <= len(models) <= MAX_MODELS:
        return None
    found = [_model(each) for each in models]
    return Usage(tuple(each for each in found if each is not None)) if None not in found else None


def _model(value: object) -> ModelUsage | None:
    if not isinstance(value, dict):
        return None
    name = value.get("model")
    counts = [value.get(key) for key in ("calls", "input_tokens", "output_tokens", "ms")]
    if not isinstance(name, str) or len(name) > MAX_NAME:
        return None
    numbers = [each for each in counts if type(each) is int and 0 <= each <= MAX_COUNT]
    return ModelUsage(name, *numbers) if len(numbers) == len(counts) else None
