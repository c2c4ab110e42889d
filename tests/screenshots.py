"""Takes README's screenshots: `python -m tests.screenshots [NAME …]`, or `make screenshots`.

Each is made of real processes doing real things, in a real browser, and lies in docs/images as a small PNG.
What is shown in a terminal is what the command printed, set as a page. To add one: a coroutine in `SHOTS`.
"""

import asyncio
import contextlib
import html
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.harness.browser import Chromium, Page
from tests.harness.client import call, turn_body
from tests.harness.instance import Instance
from tests.harness.platform_process import PlatformProcess
from tests.harness.projects import configure
from tests.harness.waiting import eventually

ROOT: Final = Path(__file__).parents[1]
IMAGES: Final = ROOT / "docs" / "images"
MOST: Final = 150 * 1024  # bytes of one: README is read on phones too
BEATS: Final = 12  # heartbeats until the platform's page has something to draw
ANSWER: Final = "#talk .said:last-of-type:not(.mine)"

TERMINAL: Final = """data:text/html;charset=utf-8,<style>
body { margin: 0; background: %%2314181d; color: %%23e7ebf0; } b { color: %%234cc36b; }
pre { margin: 0; padding: 18px 22px; font: 15px/1.35 'DejaVu Sans Mono', monospace; }</style><pre><b>$</b> %s

%s</pre>"""

Shot = Callable[[Chromium, Path], Awaitable[bytes]]


@contextlib.contextmanager
def hosted(folder: Path, name: str = "support-agent", **sections: dict[str, Any]) -> Iterator[Instance]:
    """The echo example on two workers."""
    project = folder / name
    shutil.copytree(ROOT / "examples" / "echo", project, ignore=shutil.ignore_patterns("__pycache__"))
    configure(project, server={"console": "on"}, supervisor={"soak": 0.2}, **sections)
    with Instance(project, folder / "run", name=name, platform="platform" in sections) as instance:
        yield instance.start()


async def invoke(instance: Instance, session: str, text: str) -> None:
    await call(instance.port, "POST", "/invoke", body=turn_body(session, text), within=120)


async def talk(page: Page, text: str) -> None:
    await page.type("#text", text)
    await page.press("Enter")
    await page.reads(text, ANSWER)
    await page.sees("!document.querySelector('#send').hidden")


async def console(chromium: Chromium, folder: Path) -> bytes:
    """A worker was killed, its replacement is there, and somebody else has a turn open."""
    with hosted(folder) as instance:
        async with Page(chromium, width=1200, height=700) as page:
            await page.goto(f"http://127.0.0.1:{instance.port}/console")
            await page.reads("healthy", "#status")
            await talk(page, "Which of my orders has not been sent yet?")
            victim = instance.worker_in(0)
            os.kill(victim.pid, signal.SIGKILL)
            await page.sees(
                f"document.querySelector('[data-worker=\"0.{victim.generation + 1}\"][data-state=ready]')"
            )
            await talk(page, "Then please send it to my new address.")
            other = asyncio.create_task(invoke(instance, "customer-4711", "and so on " * 100))
            await page.reads("customer-4711", "#sessions")
            shot = await page.screenshot()
            other.cancel()
            return shot


async def console_narrow(chromium: Chromium, folder: Path) -> bytes:
    """On a phone, in the dark, while an answer comes in."""
    with hosted(folder) as instance:
        async with Page(chromium, width=390, height=700, dark=True) as page:
            await page.goto(f"http://127.0.0.1:{instance.port}/console")
            await page.reads("healthy", "#status")
            await talk(page, "Which of my orders has not been sent yet?")
            await page.type("#text", "Then please send it to my new address, " + "and so on " * 20)
            await page.press("Enter")
            await page.reads("new address", ANSWER)
            return await page.screenshot()


async def reference_platform(chromium: Chromium, folder: Path) -> bytes:
    """Two instances, one of which was asked to restart."""
    with PlatformProcess() as platform, contextlib.ExitStack() as stack:
        platform.start()
        section = {"endpoint": platform.endpoint, "heartbeat_interval": 1}
        names = ("research-agent", "support-agent")
        instances = [
            stack.enter_context(hosted(folder, name, platform={**section, "instance_id": name}))
            for name in names
        ]
        for number in range(BEATS):
            turns = [
                invoke(each, f"customer-{n}", "and so on " * 9)
                for each in instances
                for n in range(number % 5)
            ]
            await asyncio.gather(*turns)
        platform.ask(names[1], "restart")
        await eventually(
            lambda: (platform.instance(names[1])["metrics"]["last_action"] or {}).get("result") == "done",
            60,
            "the restart is done",
        )
        await eventually(lambda: platform.instance(names[0])["beats"] >= BEATS, 60, "there is a history")
        async with Page(chromium, width=1040, height=500) as page:
            await page.goto(f"http://127.0.0.1:{platform.port}/")
            await page.reads(names[1])
            await page.reads("done")
            return await page.screenshot()


async def status(chromium: Chromium, folder: Path) -> bytes:
    """The command, after a death."""
    with hosted(folder) as instance:
        victim = instance.worker_in(1)
        os.kill(victim.pid, signal.SIGKILL)
        await asyncio.to_thread(instance.wait_generation, 1, victim.generation + 1)
        return await terminal(chromium, instance, "status")


async def terminal(chromium: Chromium, instance: Instance, command: str) -> bytes:
    """What one of the operator's commands prints."""
    printed = (await asyncio.to_thread(instance.command, command)).stdout
    text = html.escape(printed).replace("%", "%25").replace("#", "%23")
    lines = printed.splitlines()
    width, height = 9 * max(map(len, lines)) + 60, 21 * (len(lines) + 2) + 36
    async with Page(chromium, width=max(width, 600), height=height) as page:
        await page.goto(TERMINAL % (f"agentscope-supervisor {command}", text))
        return await page.screenshot()


SHOTS: Final[dict[str, Shot]] = {
    "console": console,
    "console-narrow": console_narrow,
    "reference-platform": reference_platform,
    "status": status,
}


def main() -> int:
    names = sys.argv[1:] or list(SHOTS)
    if unknown := set(names) - set(SHOTS):
        print(
            f"no such screenshot: {', '.join(sorted(unknown))}; there are: {', '.join(SHOTS)}",
            file=sys.stderr,
        )
        return 2
    IMAGES.mkdir(parents=True, exist_ok=True)
    with Chromium() as chromium:
        for name in names:
            with tempfile.TemporaryDirectory(prefix="screenshot-") as folder:
                image = asyncio.run(SHOTS[name](chromium, Path(folder)))
            if len(image) > MOST:
                print(f"{name}: {len(image)} bytes are more than {MOST}", file=sys.stderr)
                return 1
            (IMAGES / f"{name}.png").write_bytes(image)
            print(f"{name}: {len(image) // 1024} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
