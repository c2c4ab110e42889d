"""How many connections there may be, and what becomes of one more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope_supervisor.http1.connection_limits import ConnectionLimits, Place, places


@pytest.mark.parametrize(
    "wanted, limit, in_use, expected",
    [
        (10_000, 65_536, 20, ConnectionLimits(10_000, 32, 32, 58_983)),
        (10_000, 1024, 20, ConnectionLimits(876, 32, 32, 896)),
        (100, 1024, 20, ConnectionLimits(100, 32, 32, 896)),
        (100, 64, 20, ConnectionLimits(23, 5, 5, 43)),
        (100, 16, 20, ConnectionLimits(1, 1, 1, 11)),
    ],
)
def test_bounds(wanted: int, limit: int, in_use: int, expected: ConnectionLimits) -> None:
    assert places(wanted, limit, in_use) == expected


BOUNDS = ConnectionLimits(served=10, reserved=2, leaving=2, ceiling=100)


@pytest.mark.parametrize(
    "served, reserved, descriptor, place",
    [
        (0, 0, 7, Place.SERVED),
        (9, 2, 99, Place.SERVED),
        (10, 0, 50, Place.RESERVED),
        (10, 1, 101, Place.RESERVED),
        (10, 2, 50, Place.NONE),
        (0, 0, 100, Place.RESERVED),  # few connections, and somebody else has the descriptors
        (0, 0, 102, Place.NONE),
    ],
)
def test_place(served: int, reserved: int, descriptor: int, place: Place) -> None:
    assert BOUNDS.place(served, reserved, descriptor) is place


@given(st.integers(1, 100_000), st.integers(64, 1 << 20), st.integers(3, 60))
def test_some_descriptors_are_never_a_connections(wanted: int, limit: int, in_use: int) -> None:
    bounds = places(wanted, limit, in_use)
    assert bounds.ceiling + bounds.reserved + bounds.leaving <= limit - 10
    assert 1 <= bounds.served <= wanted
