"""The configurations of HAProxy and nginx, in the real programs, in front of real instances.

All turns of a session must reach one instance, each event must arrive at once, and no client may notice that
an instance stops.
"""

import asyncio
import signal
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness.balancers import KINDS, Balancer
from tests.harness.client import Response, Stream, call, invoke, new_session, session_in, texts
from tests.harness.events import text_of
from tests.harness.instance import Instance, free_port
from tests.harness.projects import journal, scripted
from tests.harness.waiting import eventually

SESSIONS: Final = 24  # over two instances; the probability that one gets none is 1 in 8 million
DRAIN: Final = {"supervisor": {"drain_timeout": 60, "stop_timeout": 2}}
TURNS: Final = 12
SOON: Final = 60.0  # seconds, for conditions that take 1 to 2 s on an idle machine
NOT_READY: Final = 'agentscope_http_requests_total{route="/readyz",status="503"}'

Pair = tuple[Instance, Instance]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two instances of one project; no test may stop them."""
    folder = tmp_path_factory.mktemp("pair")
    project = scripted(folder / "project", server={"keepalive_interval": 1})
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(Instance(project, folder, name=name, workers=1)).launch() for name in "ab"
        )
        first.wait_ready()
        second.wait_ready()
        yield first, second


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two instances with two slots each; one turn fills a slot. Tests may kill workers."""
    folder = tmp_path_factory.mktemp("narrow")
    project = scripted(folder / "project", supervisor={"max_inflight": 1})
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(Instance(project, folder, name=name, workers=2)).launch() for name in "ab"
        )
        first.wait_ready()
        second.wait_ready()
        yield first, second


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def balanced(kind: str, folder: Path, *ports: int) -> AsyncIterator[int]:
    """Run a load balancer in front of these ports; yields its port."""
    with Balancer(kind, folder / kind, ports) as balancer:

        def serves() -> bool:
            return all(asyncio.run(answers(balancer.port)) for _ in ports)

        await asyncio.to_thread(balancer.wait_until, serves)
        yield balancer.port


async def answers(port: int) -> bool:
    try:
        return (await call(port, "GET", "/livez")).status == 200
    except (OSError, EOFError):
        return False


async def turn(port: int, session: str, script: object, **options: Any) -> Response:
    return await invoke(port, session, script, headers={"X-Session-Id": session}, **options)


async def worker(port: int, session: str) -> str:
    """Return the pid of the worker that ran a successful turn of this session."""
    answer = await turn(port, session, [{"pid": 1}])
    assert answer.status == 200, answer.body
    return text_of(answer.json["messages"][0])


def scraped(instance: Instance) -> str:
    """Return the metrics of an instance, read from the instance itself."""
    with urllib.request.urlopen(f"http://127.0.0.1:{instance.port}/metrics", timeout=10) as response:
        return str(response.read(), "utf-8")


@pytest.mark.parametrize("of", ["haproxy.cfg", "nginx.conf"])
def test_the_programs_accept_the_files(of: str, tmp_path: Path) -> None:
    assert Balancer(of.partition(".")[0], tmp_path / "room", [1, 2]).check() == ""


async def test_all_turns_of_a_session_reach_one_instance(kind: str, pair: Pair, tmp_path: Path) -> None:
    async with balanced(kind, tmp_path, *(instance.port for instance in pair)) as port:
        sessions = [new_session() for _ in range(SESSIONS)]
        homes = [{await worker(port, session) for _ in range(3)} for session in sessions]
        assert [len(home) for home in homes] == [1] * SESSIONS
        assert len(set.union(*homes)) == 2, "both instances have sessions"
        unpinned = [await texts(port, "one", [{"pid": 1}]) for _ in sessions]
        spread = {pid for (pid,) in unpinned}
        assert len(spread) == 2, "turns without a session header are spread"


async def test_events_arrive_at_once_and_silent_streams_stay_open(
    kind: str, pair: Pair, tmp_path: Path
) -> None:
    gate, session = tmp_path / "gate", new_session()
    steps = [{"say": "first"}, {"wait_for": str(gate)}, {"say": "last"}]
    async with balanced(kind, tmp_path, *(instance.port for instance in pair)) as port:
        async with Stream(port, session, steps, headers={"X-Session-Id": session}) as stream:
            await stream.until(events=1, comments=2)
            assert not gate.exists()
            again = await call(port, "GET", f"/runs/{stream.run_id}", headers={"X-Session-Id": session})
            assert again.json["state"] == "running", "the run is found by its session"
            gate.touch()
            assert [event.text for event in await stream.whole()] == ["first", "last"]
        assert (await call(port, "GET", "/metrics")).status == 404


async def test_a_disconnected_client_cancels_its_turn(kind: str, pair: Pair, tmp_path: Path) -> None:
    session, notes = new_session(), tmp_path / "notes"
    async with balanced(kind, tmp_path, *(instance.port for instance in pair)) as port:
        options = {"headers": {"X-Session-Id": session}, "metadata": {"journal": str(notes)}}
        async with Stream(port, session, [{"say": "here"}, {"sleep": 600}], **options) as stream:
            await stream.until(events=1)
        await eventually(lambda: journal(notes)[-1]["word"] == "cancelled", SOON, "the turn is cancelled")


async def test_a_draining_instance_gets_no_new_turns_and_no_turn_fails(
    kind: str, new_instance: Callable[..., Instance], make_project: Callable[..., Path], tmp_path: Path
) -> None:
    project = make_project(**DRAIN)
    first, second = (new_instance(project, name=name, workers=1).launch() for name in "ab")
    await asyncio.to_thread(first.wait_ready)
    await asyncio.to_thread(second.wait_ready)
    (there,) = first.ready_workers()
    over, gate, served = asyncio.Event(), tmp_path / "gate", 0
    async with balanced(kind, tmp_path, first.port, second.port) as port:

        async def goes_on(session: str) -> None:
            nonlocal served
            while not over.is_set():
                answer = await turn(port, session, "hello")
                assert answer.status == 200, answer.body
                served += 1

        async def more(turns: int) -> None:
            before = served
            await eventually(lambda: served > before + turns, SOON, "turns are answered")

        sessions = [new_session() for _ in range(SESSIONS)]
        homes = {session: await worker(port, session) for session in sessions}
        pinned = next(session for session, home in homes.items() if home == str(there.pid))
        steps = [{"say": "first"}, {"wait_for": str(gate)}, {"say": "last"}]
        async with (
            asyncio.TaskGroup() as clients,
            Stream(port, pinned, steps, headers={"X-Session-Id": pinned}) as stream,
        ):
            await stream.until(events=1)
            others = [session for session in sessions if session != pinned]
            for session in others[:8]:
                clients.create_task(goes_on(session))
            await more(20)
            first.signal(signal.SIGTERM)
            await eventually(lambda: first.health()["status"] == "draining", SOON, "the instance drains")
            await more(40)
            (left,) = second.ready_workers()
            assert {await worker(port, session) for session in others} == {str(left.pid)}
            if kind == "haproxy":  # it has health checks; nginx has none
                await eventually(lambda: NOT_READY in scraped(first), SOON, "a health check has failed")
            gate.touch()
            assert [event.text for event in await stream.whole()] == ["first", "last"]
            assert await asyncio.to_thread(first.wait_exit, SOON) == 0
            await more(40)
            over.set()
        print(f"{kind}: {served} turns, 0 failed, while one of two instances drained and ended")


async def test_a_turn_that_may_have_started_is_not_retried(kind: str, pair: Pair, tmp_path: Path) -> None:
    """An instance accepts a turn and closes the connection before the answer starts."""
    taken, notes = [], tmp_path / "notes"

    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            taken.append(head)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    async with (
        await asyncio.start_server(dies, "127.0.0.1", 0) as server,
        balanced(kind, tmp_path, server.sockets[0].getsockname()[1], pair[1].port) as port,
    ):
        statuses, sent = [], 0
        while not taken:
            sent += 1
            assert sent < SESSIONS, "no session is routed to this instance"
            answer = await turn(port, new_session(), [{"note": str(notes)}, {"say": "done"}])
            statuses.append(answer.status)
        assert statuses == [200] * (sent - 1) + [502]
        assert len(taken) == 1
        assert len(journal(notes)) == sent - 1, "the other instance did not get the turn"


async def test_a_missing_instance_fails_no_turn(kind: str, pair: Pair, tmp_path: Path) -> None:
    async with balanced(kind, tmp_path, free_port(), pair[1].port) as port:
        for _ in range(SESSIONS):
            session = new_session()
            assert await texts(port, session, "hello", headers={"X-Session-Id": session}) == ["hello"]


async def test_one_full_slot_takes_no_instance_out_of_service(
    kind: str, narrow: Pair, tmp_path: Path
) -> None:
    gate, ports = tmp_path / "gate", [instance.port for instance in narrow]
    running = [{"say": "full"}, {"wait_for": str(gate)}]
    async with balanced(kind, tmp_path, *ports) as port:
        full, other = [await session_in(ports[0], 0) for _ in range(4)], await session_in(ports[0], 1)
        async with Stream(ports[0], full[0], running) as first, Stream(ports[1], full[1], running) as second:
            await first.until(events=1)
            await second.until(events=1)
            for number in range(TURNS):
                refused = await turn(port, full[2 + number % 2], "hello")
                assert (refused.status, refused.code) == (503, "OVERLOADED")
                assert (await turn(port, other, "hello")).status == 200, f"turn {number} of the other slot"
            gate.touch()
            await first.whole()
            await second.whole()
        assert (await turn(port, full[2], "hello")).status == 200


async def test_a_full_slot_beside_a_missing_instance_is_a_refusal(
    kind: str, narrow: Pair, tmp_path: Path
) -> None:
    gate, there = tmp_path / "gate", narrow[0].port
    async with balanced(kind, tmp_path, free_port(), there) as port:
        full = [await session_in(there, 0) for _ in range(6)]
        async with Stream(there, full[0], [{"say": "full"}, {"wait_for": str(gate)}]) as stream:
            await stream.until(events=1)
            for session in full[1:]:
                refused = await turn(port, session, "hello")
                assert refused.status == 503, "the turn was not begun, and the client may repeat it"
                assert refused.json["error"]["retryable"]
            gate.touch()
            await stream.whole()


async def test_a_poisonous_message_kills_workers_on_one_instance_only(
    kind: str, narrow: Pair, tmp_path: Path
) -> None:
    def generations() -> list[list[int]]:
        return [instance.generations() for instance in narrow]

    deadly = [{"segfault": kind}]  # another message for each balancer: the first one is refused by now
    async with balanced(kind, tmp_path, *(instance.port for instance in narrow)) as port:
        session, before = await session_in(port, 0), generations()
        answers = [await turn(port, session, deadly) for _ in range(6)]
        assert [answer.code for answer in answers] == ["WORKER_LOST"] * 2 + ["POISONED"] * 4
        assert {answer.status for answer in answers[2:]} == {422}
        await eventually(lambda: all(len(each) == 2 for each in generations()), SOON, "all slots are back")
        grown = [sum(now) - sum(then) for now, then in zip(generations(), before, strict=True)]
        assert sorted(grown) == [0, 2], "two workers died, both of one instance"
