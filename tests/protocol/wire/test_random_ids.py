"""Random identifiers: format, entropy, and uniqueness across threads and forks."""

import os
import threading
import time
import uuid
from typing import Any

import pytest

from agentscope_protocol.wire import random_ids
from agentscope_protocol.wire.random_ids import BATCH_SIZE, new_id


def test_an_id_has_the_form_of_uuid4_hex() -> None:
    for each in (new_id() for _ in range(2 * BATCH_SIZE)):
        read = uuid.UUID(each)
        assert (read.hex, read.version, read.variant) == (each, 4, uuid.RFC_4122)


def test_all_bits_outside_version_and_variant_are_random() -> None:
    (none,), (all_of_it,) = random_ids._format(bytes(16)), random_ids._format(b"\xff" * 16)
    assert (none, all_of_it) == (
        "0" * 12 + "4" + "0" * 3 + "8" + "0" * 15,
        "f" * 12 + "4" + "f" * 3 + "b" + "f" * 15,
    )


@pytest.mark.as_python
def test_threads_never_get_the_same_id() -> None:
    def trace(frame: Any, _event: str, _arg: object) -> Any:
        if frame.f_code is not new_id.__code__:
            return None
        time.sleep(0)  # let another thread run at each line
        return trace

    found: list[list[str]] = []
    before = threading.gettrace()  # coverage sets one
    threading.settrace(trace)
    try:
        threads = [
            threading.Thread(target=lambda: found.append([new_id() for _ in range(2 * BATCH_SIZE)]))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        threading.settrace(before)  # type: ignore[arg-type]  # typeshed does not allow None
    assert len({each for ids in found for each in ids}) == 4 * 2 * BATCH_SIZE


def test_a_forked_process_generates_its_own_ids() -> None:
    while not random_ids._batch:  # a batch exists at the fork
        new_id()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, " ".join(new_id() for _ in range(BATCH_SIZE)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        theirs = pipe.read().split()
    assert len(theirs) == BATCH_SIZE
    assert not set(theirs) & {new_id() for _ in range(BATCH_SIZE)}
