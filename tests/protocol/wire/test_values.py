"""Value classes: compared and hashed by their fields, without other attributes."""

import pytest

from agentscope_protocol.wire.frames import Data, End
from agentscope_protocol.wire.values import value


@value
class _Point:
    x: int
    y: int = 0


def test_values_with_equal_fields_are_equal() -> None:
    assert _Point(1) == _Point(1, 0)
    assert len({_Point(1), _Point(1), _Point(2)}) == 2


def test_values_of_two_classes_are_not_equal() -> None:
    assert Data(1, 2, b"x") != End(1, b"x")


def test_a_value_has_no_attributes_beside_its_fields() -> None:
    with pytest.raises(AttributeError):
        object.__setattr__(_Point(1), "z", 3)


def test_class_patterns_match_fields_in_order() -> None:
    match _Point(1, 2):
        case _Point(x, y):
            assert (x, y) == (1, 2)
