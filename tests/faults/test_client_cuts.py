"""The Python client over connections that are cut at any byte: its streams are those of a whole one."""

import random
from typing import Final

import pytest

from tests.conftest import StartInstance
from tests.fakes.cutting_proxy import CuttingProxy
from tests.harness.client import new_session
from tests.harness.instance import Instance
from tests.harness.python_client import KINDS, client_of, script

PACED: Final = [{"say": "wörd ", "times": 40, "every": 0.005}]
BURST: Final = [{"say": "x" * 40, "times": 300}]
FARTHEST: Final = 4000  # bytes after which a connection is cut at the latest: head and some ten events


@pytest.fixture(scope="module")
def continuing(start_module_instance: StartInstance) -> Instance:
    """An instance whose turns go on without their clients."""
    return start_module_instance(workers=1, sessions={"on_disconnect": "continue"})


async def cut_streams(instance: Instance, kind: str, cuts: int, seed: int) -> None:
    """Read streams through a proxy that cuts connections at any byte, until there were so many cuts. Each
    stream must be the one that another client reads without a cut."""
    chance, seen = random.Random(seed), 0
    while seen < cuts:
        wanted = BURST if seen else PACED
        budgets = [chance.randrange(FARTHEST) for _ in range(100)]
        async with (
            CuttingProxy(instance.port, "/", budgets, ("GET", "POST")) as proxy,
            client_of(kind, proxy.port, retries=100) as both,
        ):
            found = await both.read("stream", script(wanted), session_id=new_session())
            seen += proxy.cuts
        async with client_of("AsyncClient", instance.port) as direct:
            assert found == await direct.read("resume", both.last.run_id)
        assert len(found) == wanted[0]["times"]
        assert both.last.metadata["done"] is True


@pytest.mark.parametrize("kind", KINDS)
async def test_fifty_cuts(kind: str, continuing: Instance) -> None:
    await cut_streams(continuing, kind, 50, seed=5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.timeout(600)
async def test_a_thousand_cuts(kind: str, continuing: Instance) -> None:
    await cut_streams(continuing, kind, 1000, seed=11)
