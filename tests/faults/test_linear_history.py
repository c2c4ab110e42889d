"""Many clients on one session while its workers are killed and rolled: what its store has in the end."""

import asyncio
import itertools
import json
import os
import random
import signal
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.harness.client import invoke, texts
from tests.harness.events import text_of
from tests.harness.instance import Instance
from tests.harness.waiting import eventually

SESSION: Final = "one for all"
ANSWERED_WITHIN: Final = 120.0  # seconds, behind all the others and through every death
STRIKES_AT_HOME: Final = 3  # of four kills, those that meet the worker that has the session

ROLLING: Final[dict[str, Any]] = {"soak": 0.1, "drain_timeout": 5, "stop_timeout": 2}


class Clients:
    """What each turn was told: its place in the history, or that it was lost with its worker."""

    def __init__(self, port: int) -> None:
        self._port: Final = port
        self.places: Final[dict[str, int]] = {}
        self.lost: Final[set[str]] = set()

    async def have_answers(self, count: int) -> None:
        await eventually(lambda: len(self.places) >= count, ANSWERED_WITHIN, f"{count} turns were answered")

    async def ask(self, client: int, turns: int) -> None:
        for turn in range(turns):
            entry = f"{client}.{turn}"
            answer = await invoke(self._port, SESSION, [{"append": entry}], within=ANSWERED_WITHIN)
            if answer.status == 200:
                self.places[entry] = int(text_of(answer.json["messages"][0]))
            else:
                assert (answer.status, answer.code) == (502, "WORKER_LOST"), answer.body
                assert answer.json["error"]["retryable"] is False
                self.lost.add(entry)


async def trouble(instance: Instance, clients: Clients, moments: list[tuple[int, str]]) -> None:
    """Kill a worker, or roll them all, each time that so many turns were answered."""
    home = (await invoke(instance.port, SESSION, "where?")).headers["x-agentscope-worker"].split(".")[0]
    for answered, what in moments:
        # One since the last death, too: with three in a row the session would be refused.
        await clients.have_answers(max(answered, len(clients.places) + 1))
        if what == "roll":
            instance.signal(signal.SIGHUP)
            continue
        slot = int(home) if what == "kill home" else 1 - int(home)
        victims = [worker for worker in instance.ready_workers() if worker.slot == slot]
        for victim in victims[:1]:  # none, if it has just been killed and its replacement is not there yet
            os.kill(victim.pid, signal.SIGKILL)


async def linear(instance: Instance, count: int, turns: int, kills: int, rolls: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    kinds = ["kill home" if n % 4 < STRIKES_AT_HOME else "kill other" for n in range(kills)]
    kinds += ["roll"] * rolls
    chance.shuffle(kinds)
    # Not among the last turns: those that are lost are answered to nobody.
    at = sorted(chance.sample(range(1, count * turns * 3 // 4), len(kinds)))
    clients = Clients(instance.port)
    async with asyncio.TaskGroup() as group:
        group.create_task(trouble(instance, clients, list(zip(at, kinds, strict=True))))
        for client in range(count):
            group.create_task(clients.ask(client, turns))

    (said,) = await texts(instance.port, SESSION, [{"history": 1}])
    history: list[str] = json.loads(said)
    print(f"{len(history)} turns in the history, {len(clients.lost)} told that they were lost")
    assert len(set(history)) == len(history), "a turn is there twice"
    for entry, place in clients.places.items():
        assert history[place - 1] == entry, "the answer of a turn says where it stands, for good"
    assert set(history) - set(clients.places) <= clients.lost, "who was told nothing bad is there"
    assert len(clients.places) + len(clients.lost) == count * turns
    assert len(clients.lost) <= kills, "a death takes one turn along: the others of the session wait"
    for _, own in itertools.groupby(sorted(history, key=by_client), key=lambda entry: entry.split(".")[0]):
        numbers = [int(entry.split(".")[1]) for entry in own]
        assert numbers == sorted(numbers), "the turns of one client are in order"


def by_client(entry: str) -> str:
    return entry.split(".")[0]


@pytest.mark.fault("F02")
async def test_f02_a_session_keeps_a_linear_history_through_deaths_and_rollouts(
    start_instance: Callable[..., Instance],
) -> None:
    instance = start_instance(supervisor=ROLLING, sessions={"max_queue": 100})
    await linear(instance, count=10, turns=10, kills=2, rolls=1)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.fault("F02", "F40")
async def test_f02_f40_fifty_clients_on_one_session_keep_a_linear_history(
    start_instance: Callable[..., Instance],
) -> None:
    instance = start_instance(supervisor=ROLLING, sessions={"max_queue": 100})
    await linear(instance, count=50, turns=20, kills=4, rolls=3)
