"""The limit of descriptors that an instance requests."""

import os
import resource

import pytest

from agentscope_supervisor.http1 import listener


class Listening:
    def fileno(self) -> int:
        return 0


@pytest.mark.parametrize(
    "soft, hard, max_connections, requested",
    [
        (1024, 1_048_576, 100, 16_384),  # a worker may need them too
        (1024, 1_048_576, 10_000, 20_000),  # and not a million, which the programs of tools would inherit
        (1024, 4096, 10_000, 4096),
        (1024, resource.RLIM_INFINITY, 10_000, 20_000),
        (65_536, 1_048_576, 10_000, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 10_000, None),
    ],
)
def test_the_limit_of_descriptors_is_raised_as_far_as_needed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, max_connections: int, requested: int | None
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    monkeypatch.setattr(os, "dup", lambda _: 10)
    monkeypatch.setattr(os, "close", lambda _: None)
    bounds = listener._places(max_connections, Listening())  # type: ignore[arg-type]
    assert asked == ([] if requested is None else [(requested, hard)])
    assert bounds.served == min(max_connections, bounds.ceiling - 10)
