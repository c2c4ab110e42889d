"""Takes the screenshots of README and docs/: `python -m tests.screenshots [NAME …]`, or `make screenshots`.

Each is made of real processes doing real things, in a real browser, and lies in docs/images as a small PNG.
What is shown in a terminal is what the command printed, set as a page. To add one: a coroutine in `SHOTS`.
"""

import asyncio
import contextlib
import io
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from rich.console import Console
from rich.terminal_theme import MONOKAI as COLOURS
from rich.text import Text

from tests.harness import projects
from tests.harness.browser import Chromium, Page
from tests.harness.client import JSON, call, turn_body
from tests.harness.console import link
from tests.harness.instance import COMMAND, Instance
from tests.harness.platform_process import PlatformProcess
from tests.harness.projects import configure
from tests.harness.terminal import Terminal
from tests.harness.waiting import eventually

ROOT: Final = Path(__file__).parents[1]
IMAGES: Final = ROOT / "docs" / "images"
MOST: Final = 150 * 1024  # bytes of one: the pages are read on phones too
BEATS: Final = 12  # heartbeats until the platform's page has something to draw
ANSWER: Final = "#talk .said:last-of-type:not(.mine)"

COLUMNS: Final = 84  # of a terminal
LETTER, LINE = 9.03, 20  # pixels, of the font below
HOME: Final = "\x1b[H"  # where each picture of a live command begins

TERMINAL: Final = """<style>body { margin: 0; background: #14181d; color: #e7ebf0; } b { color: #4cc36b; }
pre { margin: 0; padding: 18px 22px; font: 15px/20px 'DejaVu Sans Mono', monospace; }</style>
<pre><b>$</b> agentscope-supervisor %s

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
    await call(instance.port, "POST", "/invoke", body=turn_body(session, text), headers=JSON, within=120)


async def talk(page: Page, text: str, answer: str) -> None:
    await page.type("#text", text)
    await page.press("Enter")
    await page.reads(answer, ANSWER)
    await page.sees("!document.querySelector('#send').hidden")


ORDERS: Final = """
import asyncio
from agentscope.message import Msg, TextBlock, ToolCallBlock, ToolResultBlock
from agentscope.runtime import AgentApp

ANSWER = '''Two of your orders have **not been sent** yet:

| Order | Article | Ordered on |
|---|---|---|
| 4712 | Desk lamp | 27 November |
| 4715 | Paper, 500 sheets | 30 November |

To follow a parcel, ask the API:

```bash
curl https://shop.example/orders/4712/parcel
```
'''

class App(AgentApp):
    async def __call__(self, msg, ctx):
        def said(*blocks):
            return Msg(name="orders", content=list(blocks), role="assistant")

        if "address" in msg.get_text_content():
            yield said(TextBlock(text="Which address should I use?"))
            return
        yield said(ToolCallBlock(id="1", name="find_orders", input='{"state": "open"}'))
        await asyncio.sleep(0.2)
        yield said(ToolResultBlock(id="1", name="find_orders", output="4712, 4715", state="success"))
        for word in ANSWER.split(" "):
            yield said(TextBlock(text=f"{word} "))
"""


@contextlib.contextmanager
def agent(folder: Path) -> Iterator[Instance]:
    """An agent with a tool, without a model, on two workers."""
    project = projects.written(folder / "order-agent", ORDERS)
    configure(project, server={"console": "on"}, supervisor={"soak": 0.2})
    with Instance(project, folder / "run", name="order-agent") as instance:
        yield instance.start()


async def console(chromium: Chromium, folder: Path) -> bytes:
    """An answer with a tool call, a table and code."""
    with agent(folder) as instance:
        async with Page(chromium, width=1200, height=760) as page:
            await page.goto(link(instance))
            await page.reads("healthy", "#status")
            await talk(page, "Please send it to my new address.", "Which address")
            await page.click("#new")
            await talk(page, "Which of my orders have not been sent yet?", "curl")
            return await page.screenshot()


async def console_instance(chromium: Chromium, folder: Path) -> bytes:
    """A worker was killed, its replacement is there, and somebody else has a turn open."""
    with hosted(folder) as instance:
        async with Page(chromium, width=1200, height=700) as page:
            await page.goto(f"{link(instance)}")
            await page.reads("healthy", "#status")
            await page.run("location.hash = '#instance'")
            victim = instance.worker_in(0)
            os.kill(victim.pid, signal.SIGKILL)
            await page.sees(
                f"document.querySelector('[data-worker=\"0.{victim.generation + 1}\"][data-state=ready]')"
            )
            other = asyncio.create_task(invoke(instance, "customer-4711", "and so on " * 100))
            await page.reads("customer-4711", "#sessions")
            shot = await page.screenshot()
            other.cancel()
            return shot


async def console_narrow(chromium: Chromium, folder: Path) -> bytes:
    """On a phone, in the dark."""
    with agent(folder) as instance:
        async with Page(chromium, width=390, height=760, dark=True) as page:
            await page.goto(link(instance))
            await page.reads("healthy", "#status")
            await talk(page, "Which of my orders have not been sent yet?", "curl")
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
        await has_died(instance)
        with Terminal([COMMAND, "status", *instance.found_by], columns=COLUMNS) as terminal:
            await asyncio.to_thread(terminal.wait_exit)
            return await drawn(chromium, "status", terminal.said)


async def top(chromium: Chromium, folder: Path) -> bytes:
    """The command, after a death and while turns are open."""
    names = [f"customer-{number}" for number in range(4711, 4716)]
    with hosted(folder) as instance, contextlib.ExitStack() as stack:
        await has_died(instance)
        for name in names[:3]:
            await invoke(instance, name, "a short question")
        turns = [asyncio.create_task(invoke(instance, name, "and so on " * 100)) for name in names]
        command = [COMMAND, "top", "--every", "0.5", *instance.found_by]
        terminal = stack.enter_context(Terminal(command, rows=20, columns=COLUMNS))
        await eventually(
            lambda: all(name in whole_picture(terminal) for name in names), 60, "all sessions are shown"
        )
        picture = whole_picture(terminal)
        for turn in turns:
            turn.cancel()
        return await drawn(chromium, "top", picture)


async def has_died(instance: Instance) -> None:
    """A worker, whose replacement is there."""
    victim = instance.worker_in(1)
    os.kill(victim.pid, signal.SIGKILL)
    await asyncio.to_thread(instance.wait_generation, 1, victim.generation + 1)


def whole_picture(terminal: Terminal) -> str:
    """The last one that is drawn to its end: another has begun after it."""
    return "".join(terminal.said.split(HOME)[-2:-1])


async def drawn(chromium: Chromium, command: str, printed: str) -> bytes:
    """What a terminal shows of this."""
    text = Text.from_ansi(printed.replace("\r", "").strip("\n"))
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor")
    console.print(text)
    page_text = console.export_html(inline_styles=True, code_format="{code}", theme=COLOURS)
    height = LINE * (page_text.count("\n") + 2) + 36
    async with Page(chromium, width=round(COLUMNS * LETTER) + 44, height=height) as page:
        await page.goto("data:text/html;charset=utf-8," + quote(TERMINAL % (command, page_text)))
        return await page.screenshot()


SHOTS: Final[dict[str, Shot]] = {
    "console": console,
    "console-instance": console_instance,
    "console-narrow": console_narrow,
    "reference-platform": reference_platform,
    "status": status,
    "top": top,
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
