"""An App for tests: the text of a message is a JSON list of steps, done one after the other.

Every step is an object whose first key names what to do; `perform` has them all. A text that is no list is
sent back as it is. `metadata` may say how the App answers (`form`) and where each turn's begin, cancellation
and end are written down (`journal`). The hooks do the steps of `startup.json` and `shutdown.json` in the
project folder, if these are there. Runs unchanged on AgentScope 1.x and 2.x.
"""

# ruff: noqa: ASYNC110, ASYNC221, ASYNC240, ASYNC251 - it blocks and polls as authors' Apps do, on purpose

import asyncio
import ctypes
import json
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from agentscope.message import Msg
from agentscope.runtime import AgentApp, SessionContext, runtime

from agentscope_protocol.config.settings import dump

Step = dict[str, Any]

VERSION = Path("version").read_text() if Path("version").exists() else ""  # of the files that were loaded

leaked: list[bytes] = []

ERRORS: dict[str, type[BaseException]] = {
    kind.__name__: kind
    for kind in (
        asyncio.CancelledError,
        KeyError,
        KeyboardInterrupt,
        RuntimeError,
        StopAsyncIteration,
        SystemExit,
        TimeoutError,
    )
}


class Counter:
    """What is remembered of a session."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


class History:
    """What the turns of a session have left in it, in order."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    def state_dict(self) -> dict[str, list[str]]:
        return {"entries": self.entries}

    def load_state_dict(self, state: dict[str, list[str]]) -> None:
        self.entries = state["entries"]


def message(text: str, step: Step | None = None) -> Msg:
    options = step or {}
    more = {"metadata": options["metadata"]} if "metadata" in options else {}
    return Msg(name=options.get("name", "assistant"), content=text, role="assistant", **more)


def note(path: str, **what: Any) -> None:
    """Append one JSON line; whole, as it is one write."""
    line = json.dumps({**what, "at": time.monotonic(), "pid": os.getpid()})
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def terminated() -> str:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=[600])
    child.start()
    child.terminate()
    child.join()
    return str(child.exitcode)


def pooled() -> str:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return str(pool.map_async(abs, [1, -2]).get(30))


def forked() -> str:
    """A child that lives for a second, and so keeps what it has inherited during the saves of others."""
    child = os.fork()
    if child == 0:
        time.sleep(1)
        os._exit(0)
    return str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


FORKS = {"terminate": terminated, "pool": pooled, "fork": forked}


async def returned(name: str, arguments: dict[str, Any]) -> str:
    """The text that a tool returns to the model."""
    try:
        from agentscope.message import ToolUseBlock
    except ImportError:  # AgentScope 2.x
        from agentscope.message import ToolCallBlock
        from agentscope.state import AgentState

        block = ToolCallBlock(id="1", name=name, input=json.dumps(arguments))
        answers = runtime.tools.call_tool(block, AgentState())
    else:
        block = ToolUseBlock(type="tool_use", id="1", name=name, input=arguments)
        answers = await runtime.tools.call_tool_function(block)
    *_, answer = [each async for each in answers]
    return Msg(name="tool", content=list(answer.content), role="assistant").get_text_content() or ""


def is_due(step: Step) -> bool:
    """Whether a step is to be done; with `only_first`, that many times, counted in the file `counted_in`."""
    if "only_first" not in step:
        return True
    path = Path(step["counted_in"])
    note(str(path), word="due")
    return len(path.read_text("utf-8").splitlines()) <= step["only_first"]


async def perform(step: Step, msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
    """Do one step; yields what it has to say."""
    match step:
        case {"say": text}:  # times, every (seconds between), name, metadata
            for number in range(step.get("times", 1)):
                if "every" in step and number:
                    await asyncio.sleep(step["every"])
                yield message(text, step)
        case {"big": size}:  # a message of so many characters; times
            for _ in range(step.get("times", 1)):
                yield message("x" * size, step)
        case {"yield": value}:  # something that is no Msg
            yield value
        case {"context": _}:
            yield message(json.dumps(described(msg, ctx)))
        case {"settings": _}:  # as this worker has them, with all secrets
            yield message(dump(runtime.config).decode())
        case {"pid": _}:
            yield message(str(os.getpid()))
        case {"version": _}:  # what the file `version` said when this process loaded app.py
            yield message(VERSION)
        case {"count": _}:  # turns of this session, kept by runtime.session; user
            counter, user = Counter(), step.get("user", "")
            await runtime.session.load_session_state(ctx.session_id, user, counter=counter)
            counter.count += 1
            await runtime.session.save_session_state(ctx.session_id, user, counter=counter)
            yield message(str(counter.count))
        case {"recall": _}:  # that number, without a change
            counter = Counter()
            await runtime.session.load_session_state(ctx.session_id, counter=counter)
            yield message(str(counter.count))
        case {"append": entry}:  # to the history of this session; says where it stands in it
            history = History()
            await runtime.session.load_session_state(ctx.session_id, history=history)
            history.entries.append(entry)
            await runtime.session.save_session_state(ctx.session_id, history=history)
            yield message(str(len(history.entries)))
        case {"history": _}:
            history = History()
            await runtime.session.load_session_state(ctx.session_id, history=history)
            yield message(json.dumps(history.entries))
        case {"sleep": seconds}:
            await asyncio.sleep(seconds)
        case {"wait_for": path}:  # until this file is there
            while not Path(path).exists():
                await asyncio.sleep(0.01)
        case {"block": seconds}:  # the whole worker
            time.sleep(seconds)
        case {"spin": seconds}:  # Python that computes
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                pass
        case {"hold": _}:  # C code that keeps the interpreter's lock, for longer than any test lasts
            re.match(r"(a+)+$", "a" * 40 + "b")
        case {"deaf": seconds}:  # to cancellation
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                try:
                    await asyncio.sleep(0.05)
                except asyncio.CancelledError:
                    continue
        case {"saturate": threads}:  # the executor of `asyncio.to_thread`: more calls than it has threads
            for _ in range(threads):
                asyncio.get_running_loop().run_in_executor(None, time.sleep, step["seconds"])
        case {"limit_memory": megabytes}:  # to so much more than there is now
            _, most = resource.getrlimit(resource.RLIMIT_DATA)
            (used,) = re.findall(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
            resource.setrlimit(resource.RLIMIT_DATA, (int(used) * 1024 + megabytes * 2**20, most))
        case {"allocate": megabytes}:  # and use it
            yield message(str(len([b"x" * 2**20 + b"%d" % n for n in range(megabytes)])))
        case {"leak_memory": megabytes}:  # for the life of the process
            leaked.append(b"x" * (megabytes * 2**20))
            yield message(f"{megabytes} MB more")
        case {"leak_descriptors": _}:  # all that there are, of which there are few
            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, most))
            while True:
                os.open("/dev/null", os.O_RDONLY)
        case {"note": path}:
            note(path, word=step.get("word", "here"))
        case {"raise": text}:  # kind; only_first
            if is_due(step):
                raise ERRORS[step.get("kind", "RuntimeError")](text)
        case {"print": text}:  # times
            for _ in range(step.get("times", 1)):
                sys.stdout.write(text + "\n")
        case {"shell": command}:  # until it ends; what it leaves in the background goes on
            subprocess.run(["/bin/sh", "-c", command], check=True)
        case {"write_bytes": size}:  # to standard output, one line that is no text
            sys.stdout.flush()
            os.write(1, b"\xff\x00\x1b" * (size // 3) + b"\n")
        case {"fork": how}:  # a child that executes no program; says how it ended
            yield message(await asyncio.to_thread(FORKS[how]))
        case {"tool": name}:  # arguments; says what `runtime.tools` returns
            yield message(await returned(name, step["arguments"]))
        case {"exit": status}:  # only_first
            if is_due(step):
                os._exit(status)
        case {"exit_later": seconds}:
            asyncio.get_running_loop().call_later(seconds, os._exit, 1)
        case {"segfault": _}:
            ctypes.string_at(0)
        case _:
            raise ValueError(f"unknown step: {step}")


def described(msg: Msg, ctx: SessionContext) -> dict[str, Any]:
    """What the App was told about this turn."""
    return {
        "session_id": ctx.session_id,
        "metadata": ctx.metadata,
        "run_id": ctx.run_id,
        "trace": ctx.trace,
        "id": msg.id,
        "name": msg.name,
        "role": msg.role,
        "text": msg.get_text_content(),
        "cwd": os.getcwd(),
        "path": sys.path[0],
    }


def steps_of(msg: Msg, ctx: SessionContext) -> list[Step]:
    """The steps of a turn: in the text, or in the metadata where the content is under test."""
    text = msg.get_text_content() or ""
    if "steps" in ctx.metadata:
        steps: list[Step] = ctx.metadata["steps"]
    elif text.startswith("["):
        steps = json.loads(text)
    else:
        steps = [{"say": text}]
    return steps


class App(AgentApp):
    def __call__(self, msg: Msg, ctx: SessionContext) -> Any:
        return getattr(self, ctx.metadata.get("form", "generator"))(msg, ctx)

    async def generator(self, msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
        journal, label = ctx.metadata.get("journal"), ctx.metadata.get("label", "")
        word = "end"
        if journal:
            note(journal, word="begin", label=label)
        try:
            for step in steps_of(msg, ctx):
                async for answer in perform(step, msg, ctx):
                    yield answer
        except (asyncio.CancelledError, GeneratorExit):
            word = "cancelled"
            raise
        finally:
            if journal:
                note(journal, word=word, label=label)

    async def coroutine(self, msg: Msg, ctx: SessionContext) -> Msg:
        return message(msg.get_text_content() or "")

    async def coroutine_of_iterator(self, msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
        return self.generator(msg, ctx)

    async def nothing(self, msg: Msg, ctx: SessionContext) -> None:
        return None

    async def coroutine_of_text(self, msg: Msg, ctx: SessionContext) -> str:
        return "text"

    def plain_generator(self, msg: Msg, ctx: SessionContext) -> Iterator[Msg]:
        yield message("never seen")

    async def on_startup(self) -> None:
        await self._hook("startup.json")

    async def on_shutdown(self) -> None:
        await self._hook("shutdown.json")

    async def _hook(self, name: str) -> None:
        if Path(name).exists():
            nobody = SessionContext("")
            for step in json.loads(Path(name).read_text("utf-8")):
                async for _ in perform(step, message(""), nobody):
                    pass
