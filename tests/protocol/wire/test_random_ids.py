"""Identifiers that nobody can guess: their form, and that none is given out twice."""

import os
import threading
import time
import uuid
from typing import Any

import pytest

from agentscope_protocol.wire import random_ids
from agentscope_protocol.wire.random_ids import IN_STOCK, new_id


def test_an_id_has_the_form_of_python_s_own() -> None:
    for each in (new_id() for _ in range(2 * IN_STOCK)):
        read = uuid.UUID(each)
        assert (read.hex, read.version, read.variant) == (each, 4, uuid.RFC_4122)


def test_an_id_holds_all_the_chance_that_its_form_leaves() -> None:
    (none,), (all_of_it,) = random_ids._made(bytes(16)), random_ids._made(b"\xff" * 16)
    assert (none, all_of_it) == (
        "0" * 12 + "4" + "0" * 3 + "8" + "0" * 15,
        "f" * 12 + "4" + "f" * 3 + "b" + "f" * 15,
    )


@pytest.mark.as_python
def test_no_two_threads_get_the_same() -> None:
    def trace(frame: Any, _event: str, _arg: object) -> Any:
        if frame.f_code is not new_id.__code__:
            return None
        time.sleep(0)  # let another thread go on, at each line
        return trace

    found: list[list[str]] = []
    before = threading.gettrace()  # coverage has one
    threading.settrace(trace)
    try:
        threads = [
            threading.Thread(target=lambda: found.append([new_id() for _ in range(2 * IN_STOCK)]))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        threading.settrace(before)  # type: ignore[arg-type] - typeshed does not know that it may be None
    assert len({each for ids in found for each in ids}) == 4 * 2 * IN_STOCK


def test_a_forked_process_makes_ids_of_its_own() -> None:
    while not random_ids._stock:  # there is one at the fork
        new_id()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, " ".join(new_id() for _ in range(IN_STOCK)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        theirs = pipe.read().split()
    assert len(theirs) == IN_STOCK
    assert not set(theirs) & {new_id() for _ in range(IN_STOCK)}
