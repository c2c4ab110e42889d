"""Values that are made for each event and each turn: data without identity that nobody changes. Pure.

`value` is `dataclass(frozen=True, slots=True)` without the check at run time that makes a frozen one four
times as dear to make (0.4 µs against 0.1 for three fields, on the hot path for each frame and command). That
nobody changes them is checked by mypy.

The few that are made in every turn, or for every event, are a `dataclass(init=False, slots=True)` with
`Final` fields and an `__init__` that is written out. As Python that is the same; compiled (README,
"Compiled") one is made in 0.04 µs, where an `__init__` that `dataclasses` wrote takes 0.3, as the compiler
cannot see it.

What such code asks of an enum it keeps in a constant of its module: to read a member takes CPython 3.11
0.14 µs, and 0.03 from 3.12 on, whose `EnumType` has no `__getattr__` any more; a turn did it 26 times.
"""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """Make a class of annotated fields one of values, compared and hashed by them."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
