"""A message that kills its worker, sent again and again (F19)."""

from collections.abc import Callable

import pytest

from tests.harness.client import invoke, session_in, texts
from tests.harness.instance import Instance


@pytest.mark.fault("F19")
async def test_f19_a_message_that_keeps_killing_its_worker_is_refused_and_its_slot_serves_on(
    start_instance: Callable[..., Instance],
) -> None:
    instance = start_instance(workers=1)
    port = instance.port
    session, other = await session_in(port, 0), await session_in(port, 0)
    deadly = [{"segfault": True}]
    codes = [(await invoke(port, session, deadly, stream=False)).code for _ in range(10)]
    assert codes[:2] == ["WORKER_LOST"] * 2
    assert codes[2:] == ["POISONED"] * 8
    refused = await invoke(port, session, deadly)
    assert refused.status == 422
    assert "crashed 2 times in a row" in refused.json["error"]["message"]
    assert await texts(port, session, "as before") == ["as before"], "only the message is refused"
    assert await texts(port, other, "as before") == ["as before"]
    (worker,) = instance.ready_workers()
    assert worker.generation == 3


@pytest.mark.fault("F19")
async def test_f19_a_session_that_keeps_killing_its_worker_is_refused_with_whatever_message(
    start_instance: Callable[..., Instance],
) -> None:
    instance = start_instance(workers=1)
    session = await session_in(instance.port, 0)
    for status in (3, 4, 5):
        lost = await invoke(instance.port, session, [{"exit": status}], stream=False)
        assert lost.code == "WORKER_LOST"
    refused = await invoke(instance.port, session, "as before", stream=False)
    assert (refused.status, refused.code) == (422, "POISONED")
    assert "this session" in refused.json["error"]["message"]
    other = await session_in(instance.port, 0)
    assert await texts(instance.port, other, "as before") == ["as before"]
