"""Generated requests on every way into a front door in memory: each means the same on all of them.

tests/security/test_request_ways.py sends them to an instance, also through balancers; `make fuzz` has the
target `ways`, which mutates bytes.
"""

import random

import pytest

from agentscope_supervisor.http1 import fast_head
from agentscope_supervisor.http1.fast_head import FastHead
from tests.fuzz.request_ways import BODY, FIELDS, TOKEN, USUAL, Seen, by_way, check
from tests.harness import request_heads

pytestmark = pytest.mark.as_python  # compiled modules refuse the stand-ins

REQUESTS = 40  # of each seed


@pytest.mark.parametrize("seed", ["a", "b"])
def test_a_request_means_the_same_on_every_way(seed: str) -> None:
    rng = random.Random(seed)
    numbers = set()
    for _ in range(REQUESTS):
        body = BODY
        if rng.random() < 0.3:  # for a reader of chunks: an empty body, and then another turn
            body = b"0\r\n\r\n" + USUAL
        data = request_heads.head(rng, body, TOKEN) + body
        cut = rng.randrange(1, len(data))
        check(data, cut)
        numbers.add(len(by_way(data, cut)["one write"].turns))
    assert {0, 1} <= numbers, "usual and odd requests are among the generated ones"


def test_turns_one_after_the_other_all_begin() -> None:
    assert all(seen == Seen([422] * 3, [BODY] * 3, True) for seen in by_way(USUAL * 3, 100).values())


def test_a_way_that_ends_a_request_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    read = fast_head.read

    def short(data: bytes, max_body: int) -> FastHead | None:
        found = read(data, max_body)
        return found and FastHead(found.fields, found.start, found.start + len(BODY))

    head = b"POST /invoke HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (FIELDS, len(BODY + USUAL))
    data, cut = head + BODY + USUAL, len(head + BODY)
    check(data, cut)
    monkeypatch.setattr(fast_head, "read", short)
    with pytest.raises(AssertionError, match="pieces"):
        check(data, cut)
