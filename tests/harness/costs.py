"""A pytest plugin that records what each test costs: wall-clock seconds and CPU seconds.

Load it with `-p tests.harness.costs` and name the output file in TEST_COSTS. Each test appends one line of
JSON. CPU is that of the test process plus that of the child processes that ended during the test.
"""

import json
import os
import time
from collections.abc import Iterator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    path = os.environ.get("TEST_COSTS")
    before, began = os.times(), time.monotonic()
    result = yield
    if path:
        after = os.times()
        cost = {
            "id": item.nodeid,
            "wall": round(time.monotonic() - began, 4),
            "own": round(after.user + after.system - before.user - before.system, 4),
            "children": round(
                after.children_user + after.children_system - before.children_user - before.children_system, 4
            ),
        }
        with open(path, "a") as file:
            file.write(json.dumps(cost) + "\n")
    return result
