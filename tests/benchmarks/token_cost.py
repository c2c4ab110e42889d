"""What a model's token costs a worker on its way to the client: CPU time for each piece of a stream.

    python -m tests.benchmarks.token_cost [--tokens 400] [--rounds 5]      (make bench-tokens)

A model server in a process of its own streams an answer, one piece every `--pause` seconds, so that each
piece arrives alone, as those of a real model do. A process for each cell reads it: through the provider's
client, through AgentScope's model, through `runtime.models.main.stream`, or through an agent, with
`light_stream` off and on. The last two rows send turns through a supervisor and a worker, and read the CPU
time of both. Prints a table in Markdown with the median, the least and the most of the rounds. Run it on a
quiet machine.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil

from tests.harness import projects
from tests.harness.client import invoke, new_session
from tests.harness.instance import Instance

PROVIDERS: Final = ("openai", "anthropic", "dashscope", "gemini", "ollama")
WITH_A_BARE_CLIENT: Final = ("openai", "anthropic")
WITH_LIGHT_STREAM: Final = ("openai", "anthropic", "dashscope")
LEVELS: Final = ("client", "model", "slot", "agent")

AGENT_APP: Final = """
    from agentscope.agent import Agent
    from agentscope.runtime import AgentApp, runtime

    class App(AgentApp):
        async def __call__(self, msg, ctx):
            agent = Agent(name="agent", system_prompt="You answer.", model=runtime.models.main)
            async for chunk in agent.stream(msg):
                yield chunk
"""


@contextmanager
def model_server(pause: float) -> Iterator[dict[str, str]]:
    """The fake model server in a process of its own; yields provider -> base URL."""
    command = [sys.executable, "-m", "tests.fakes.model_server", "--delay", str(pause)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        urls = {}
        for _ in PROVIDERS:
            name, url = process.stdout.readline().split()
            urls[name] = url
        yield urls
        process.terminate()


def probe(provider: str, level: str, light: str, url: str, tokens: int, rounds: int) -> dict[str, Any]:
    arguments = (provider, level, light, url, str(tokens), str(rounds))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.token_probe", *arguments],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f}–{max(values):.0f})"


def row(provider: str, way: str, measured: Sequence[Sequence[float]], first: str) -> None:
    """Print a row. `measured`: microseconds with `light_stream` off, and on if the provider has it."""
    cells = [spread(each) for each in measured]
    if len(measured) > 1 and statistics.median(measured[1]):
        cells.append(f"{statistics.median(measured[0]) / statistics.median(measured[1]):.1f}")
    cells += ["–"] * (3 - len(cells))
    print(f"| {provider} | {way} | {' | '.join(cells)} | {first} |", flush=True)


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


async def through_a_supervisor(
    folder: Path, urls: dict[str, str], light: str, tokens: int, rounds: int
) -> dict[str, list[float]]:
    """CPU time of the supervisor and of the worker for each token of an agent's reply, in microseconds."""
    project = projects.written(folder / f"project-{light}", AGENT_APP)
    model = {"provider": "openai", "model": "m", "api_key": "k", "base_url": urls["openai"]}
    projects.configure(project, models={"main": {**model, "light_stream": light}})
    cost: dict[str, list[float]] = {"supervisor": [], "worker": []}
    with Instance(project, folder, name=light, workers=1).start() as instance:
        pids = {"supervisor": instance.pid, "worker": instance.worker_in(0).pid}
        for number in range(rounds + 1):
            before = {role: cpu_seconds(pid) for role, pid in pids.items()}
            for _ in range(3):  # the kernel counts CPU time in steps of 10 ms
                response = await invoke(instance.port, new_session(), " ".join(["word"] * tokens))
                assert response.status == 200, response.body
            for role, pid in pids.items():
                if number:
                    cost[role].append((cpu_seconds(pid) - before[role]) / (3 * tokens) * 1e6)
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=400, help="pieces of one stream")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pause", type=float, default=0.001, help="seconds before each piece")
    options = parser.parse_args()
    print("| provider | way | `light_stream: off`, µs | `auto`, µs | ratio | first piece, ms |")
    print("|---|---|---|---|---|---|")
    with model_server(options.pause) as urls, tempfile.TemporaryDirectory() as name:
        for provider in PROVIDERS:
            for level in LEVELS:
                if level == "client" and provider not in WITH_A_BARE_CLIENT:
                    continue
                measured = [
                    probe(provider, level, light, urls[provider], options.tokens, options.rounds)
                    for light in (("off", "auto") if provider in WITH_LIGHT_STREAM else ("off",))
                ]
                first = statistics.median(measured[-1]["first_ms"])
                row(provider, level, [each["us"] for each in measured], f"{first:.1f}")
        cost = {
            light: asyncio.run(through_a_supervisor(Path(name), urls, light, options.tokens, options.rounds))
            for light in ("off", "auto")
        }
        for role in ("worker", "supervisor"):
            row("openai", f"hosted agent: {role}", [cost["off"][role], cost["auto"][role]], "–")


if __name__ == "__main__":
    main()
