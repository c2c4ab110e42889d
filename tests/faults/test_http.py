"""Clients that are idle, and clients that leave in the middle of a request; each one harms nobody but itself.

Those that speak HTTP in old and odd ways: tests/integration/test_conformance.py.
"""

import pytest

from tests.harness.client import JSON, Connection, call, invoke, new_session, request, texts, turn_body
from tests.harness.instance import Instance


@pytest.mark.timed
@pytest.mark.fault("F61", "F70")
async def test_f61_f70_many_idle_connections_do_no_harm(shared: Instance) -> None:
    connections = [Connection(shared.port) for _ in range(300)]
    try:
        for number, connection in enumerate(connections):
            await connection.__aenter__()
            await connection.send(b"" if number % 2 else b"POST /invoke HTTP/1.1\r\nHost: te")
        answer = await invoke(shared.port, new_session(), "me first")
        assert answer.status == 200
        assert answer.seconds < 5
    finally:
        for connection in connections:
            if hasattr(connection, "writer"):
                connection.abort()


async def test_client_that_leaves_in_the_middle_of_its_request(shared: Instance) -> None:
    whole, logged = request("POST", "/invoke", turn_body(new_session(), "x" * 200_000), JSON), len(shared.log)
    for size in (0, 1, 20, len(whole) // 2, len(whole) - 1):
        async with Connection(shared.port) as connection:
            await connection.send(whole[:size])
    assert await texts(shared.port, new_session(), "still here") == ["still here"]
    assert "Traceback" not in shared.log[logged:]


async def test_after_all_that_the_instance_is_well(shared: Instance) -> None:
    assert (await call(shared.port, "GET", "/health")).json["status"] == "healthy"
    assert "request failed" not in shared.log, "nothing of the above was an error of ours"
