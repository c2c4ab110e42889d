"""A turn that blocks its worker's loop is named, while somebody develops."""

import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.harness.client import new_session, texts
from tests.harness.instance import Instance
from tests.harness.projects import written
from tests.harness.waiting import eventually

APP: Final = """
    import asyncio
    import re
    import time

    from agentscope.message import Msg
    from agentscope.runtime import AgentApp


    def sleeps():
        time.sleep(0.5)


    def computes():
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            pass


    def holds():
        re.match(r"(a+)+$", "a" * 24 + "b")


    async def in_a_tool(block):
        block()


    class App(AgentApp):
        async def __call__(self, msg, ctx):
            if "how" in ctx.metadata:
                await asyncio.gather(in_a_tool(globals()[ctx.metadata["how"]]))
            await asyncio.sleep(0.3)
            yield Msg(name="a", content=ctx.run_id, role="assistant")
"""
FOUND: Final = (
    r"warning the event loop was blocked for (\d+) ms: (\S+), line (\d+), in (.*) worker=0.1 .* run=(\w+)"
)


@pytest.fixture(scope="module")
def developing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("blocks")
    with Instance(written(folder / "project", APP), folder, workers=1, arguments=["--reload"]) as instance:
        yield instance.start()


@pytest.mark.parametrize("how", ["sleeps", "computes", "holds"])
async def test_what_blocks_is_named_with_file_line_and_turn(developing: Instance, how: str) -> None:
    (run,) = await texts(developing.port, new_session(), "x", metadata={"how": how})
    await eventually(lambda: f"run={run}" in developing.log, 20, "it is named")
    (line,) = [line for line in developing.log.splitlines() if f"run={run}" in line]
    found = re.search(FOUND, line)
    assert found is not None, line
    milliseconds, file, number, function, named = found.groups()
    assert int(milliseconds) >= 100
    assert file == f"{developing.project}/app.py"
    lines = textwrap.dedent(APP).splitlines()
    assert how in function
    first = lines.index(f"def {how}():") + 1
    assert first < int(number) <= first + 3
    assert named == run


async def test_a_turn_that_waits_properly_is_not(developing: Instance) -> None:
    runs = [(await texts(developing.port, new_session(), "x"))[0] for _ in range(3)]
    # Named is what comes after them, so that their lines would be there.
    (last,) = await texts(developing.port, new_session(), "x", metadata={"how": "sleeps"})
    await eventually(lambda: f"run={last}" in developing.log, 20, "this one is named")
    for run in runs:
        assert f"sleeps worker=0.1 logger=agentscope_worker.loop_watch run={run}" not in developing.log


async def test_in_service_nobody_looks(new_instance: Callable[..., Instance], tmp_path: Path) -> None:
    instance = new_instance(written(tmp_path / "project", APP), workers=1).start()
    await texts(instance.port, new_session(), "x", metadata={"how": "sleeps"})
    await texts(instance.port, new_session(), "x")
    assert "was blocked" not in instance.log
