"""One soak: an instance, its platform, clients and chaos for a while, then the checks.

`load` is the clients, `chaos` what is done to the instance, `checks` what must hold at the end.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.harness import projects
from tests.harness.instance import Instance
from tests.harness.platform_process import PlatformProcess
from tests.harness.waiting import eventually
from tests.soak import checks
from tests.soak.chaos import Chaos
from tests.soak.checks import Check
from tests.soak.load import Client, Session, Tally, last_count
from tests.soak.services import Sessions, Tools

SAMPLE_EVERY: Final = 2.0  # seconds between two looks at the supervisor's memory
RESTS_WITHIN: Final = 240.0  # seconds; the breaker of a slot may rest for a minute or two
AT_ONCE: Final = 16  # sessions that are asked for their last count together

SECTIONS: Final[dict[str, projects.Section]] = {
    "supervisor": {"soak": 0.2, "unresponsive_timeout": 6, "stop_timeout": 3, "max_turns": 2000},
    "sessions": {"cancel_grace": 3, "replay_max_mb": 1},
    "server": {"keepalive_interval": 5, "request_timeout": 90},
}


async def soak(
    instance: Instance, chaos_of: Callable[[Tally], Chaos], sessions: int, seconds: float, seed: str
) -> bool:
    """Run it on an instance that is ready; prints what came of it. Returns whether all holds."""
    tally, slots = Tally(), instance.workers_asked
    folder = instance.project / "journals"
    folder.mkdir()
    known = [Session(f"soak-{number}", folder / f"{number}.jsonl") for number in range(sessions)]
    chaos = chaos_of(tally)
    before, samples, began = checks.held(instance), [], time.monotonic()

    def goes_on() -> bool:
        return time.monotonic() < began + seconds

    async def sample(goes_on: Callable[[], bool]) -> None:
        while goes_on():
            samples.append((time.monotonic() - began, checks.held(instance).rss))
            await asyncio.sleep(SAMPLE_EVERY)

    async with asyncio.TaskGroup() as group:
        for session in known:
            group.create_task(Client(instance.port, session, seed, tally).run(goes_on))
        group.create_task(chaos.run(goes_on))
        group.create_task(sample(goes_on))
    await chaos.calm()
    await eventually(lambda: rests(instance, slots), RESTS_WITHIN, "the instance comes to rest")
    last = await last_counts(instance.port, known)
    await eventually(lambda: rests(instance, slots), RESTS_WITHIN, "the instance is at rest")
    minutes = checks.by_minute(samples)
    log = await asyncio.to_thread(lambda: instance.log)
    found = [
        *checks.of_turns(tally),
        checks.of_deaths(log),
        *checks.of_journals(known),
        *checks.of_counts(last),
        *checks.of_supervisor(before, checks.held(instance), minutes),
        Check("events of the supervisor that failed", log.count("event failed")),
    ]
    report(tally, chaos, found, minutes)
    return not any(check.broken for check in found)


def rests(instance: Instance, slots: int) -> bool:
    """Every slot serves, nothing else is there, no turn is open, no client is connected."""
    health = instance.health()
    states = [worker["state"] for worker in health["workers"]]
    return states == ["ready"] * slots and health["turns"]["open"] == 0


async def last_counts(port: int, sessions: list[Session]) -> list[tuple[Session, str, int]]:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(session: Session) -> tuple[Session, str, int]:
        async with limit:
            return session, *await last_count(port, session)

    return await asyncio.gather(*map(one, sessions))


def report(tally: Tally, chaos: Chaos, found: list[Check], minutes: list[float]) -> None:
    print("\noutcomes of turns")
    for outcome, times in tally.outcomes.most_common():
        print(f"  {times:7d}  {outcome}")
    print(f"  {tally.outcomes.total():7d}  in all; the slowest took {tally.slowest:.1f} s")
    print(f"  {tally.refused:7d}  that went well had a tool call that an MCP server refused")
    print("done to the instance")
    print("  " + ", ".join(f"{name} {times}" for name, times in sorted(chaos.done.items())))
    print("memory of the supervisor by minute, MB: " + " ".join(f"{each:.1f}" for each in minutes))
    for check in found:
        print(f"{'BROKEN' if check.broken else 'ok':>6}  {check.number:7.6g}  {check.name}")
        if check.broken and check.detail:
            print(f"        {check.detail}")


def run(folder: Path, *, seconds: float, seed: str, sessions: int, workers: int, store: str) -> bool:
    """A soak of an instance of its own, with servers of its own. Returns whether all holds.

    `store`: "redis", or "json" for files.
    """
    return asyncio.run(_run(folder, seconds, seed, sessions, workers, store))


async def _run(folder: Path, seconds: float, seed: str, sessions: int, workers: int, store: str) -> bool:
    async with contextlib.AsyncExitStack() as stack:
        platform = stack.enter_context(PlatformProcess().start())
        tools = Tools()
        stack.callback(tools.close)
        section = {"endpoint": platform.endpoint, "instance_id": "soak", "heartbeat_interval": 1}
        sections = {**SECTIONS, "platform": section, "mcp_servers": tools.start()}
        kept = None
        if store == "redis":
            kept = Sessions(folder / "redis")
            stack.push_async_callback(kept.close)
            sections["session"] = {"backend": store, "redis_url": await kept.start()}
        project = projects.scripted(folder / "project", **sections)
        # The road to Redis is in this process: a thread waits for the instance.
        instance = Instance(project, folder, workers=workers, platform=True)
        stack.push(instance.__exit__)
        await asyncio.to_thread(instance.start)
        good = await soak(
            instance,
            lambda tally: Chaos(instance, platform, kept, tools, seed, tally),
            sessions,
            seconds,
            seed,
        )
        await asyncio.to_thread(instance.stop)
        return good
