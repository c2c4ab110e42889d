"""What the log says of turns: whose line it is, and never what was said."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from agentscope_protocol.wire.log_lines import session_digest
from tests.harness.client import call, invoke, new_session
from tests.harness.instance import Instance
from tests.harness.projects import QUICK_STOP, written
from tests.harness.waiting import eventually

APP: Final = """
    import asyncio
    import logging

    from agentscope.message import Msg
    from agentscope.runtime import AgentApp, runtime

    log = logging.getLogger("shop")


    class App(AgentApp):
        async def on_startup(self):
            log.info("opens")

        async def __call__(self, msg, ctx):
            async def elsewhere():
                log.warning("from a task\\nof two lines, \\x1b[31mred")

            log.info("looks up %d", 7)
            await asyncio.gather(elsewhere(), asyncio.to_thread(log.info, "from a thread"))
            log.debug("never seen")
            print("printed")
            print("\\x1e" + '{"level": "error", "message": "forged", "run": "x", "worker": "9.9"}')
            if ctx.metadata.get("raise"):
                raise ValueError("no good")
            async for chunk in runtime.models.main.stream([msg]):
                yield Msg(name="a", content=chunk.text, role="assistant")
"""
TOKEN, KEY, PROMPT = "hush-token-of-callers", "hush-key-of-a-model", "hush-what-was-asked"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance that logs all it can, as JSON; its model server is not there."""
    folder = tmp_path_factory.mktemp("shop")
    config = f"""
        models:
          main: {{provider: openai, model: m, api_key: {KEY}, base_url: "http://127.0.0.1:9/v1",
                 client_kwargs: {{max_retries: 0}}}}
        server: {{auth_token: {TOKEN}}}
    """
    project = written(folder / "project", APP, config)
    options = ["--log-level", "debug", "--log-format", "json"]
    with Instance(project, folder, workers=1, arguments=options) as instance:
        yield instance.start()


def lines(instance: Instance, **fields: object) -> list[dict[str, Any]]:
    """The lines of the log that have these fields."""
    entries = [json.loads(line) for line in instance.log.splitlines() if line.startswith("{")]
    return [entry for entry in entries if fields.items() <= entry.items()]


async def ask(instance: Instance, session: str, request: str, **metadata: object) -> str:
    """A turn that fails, as its model is not there; returns its run."""
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-Id": request}
    answer = await invoke(instance.port, session, PROMPT, metadata=metadata, headers=headers)
    assert answer.status == 500
    return answer.headers["x-run-id"]


@pytest.mark.agentscope
async def test_each_line_of_a_turn_names_request_run_session_and_worker(shop: Instance) -> None:
    session = new_session()
    run = await ask(shop, session, "req-1", **{"raise": True})
    about = {"request": "req-1", "run": run, "session": session_digest(session)}
    worker = {"worker": "0.1", "slot": 0, "generation": 1}
    await eventually(lambda: lines(shop, message="turn ends", run=run), 20, "the last of them")
    for message in ("turn is accepted", "turn begins", "turn ends"):
        (line,) = lines(shop, message=message, **about)
        assert line["level"] == "debug"
    assert line["outcome"] == "APP_ERROR"
    of_app = {**about, **worker, "logger": "shop"}
    assert [line["message"] for line in lines(shop, **of_app, level="info")] == [
        "looks up 7",
        "from a thread",
    ]
    (line,) = lines(shop, **of_app, level="warning")
    assert line["message"] == "from a task\nof two lines, \\x1b[31mred"
    (line,) = lines(shop, **about, **worker, level="error", message="the App raised")
    assert line["exception"].endswith("ValueError: no good")
    assert lines(shop, message="opens", **worker, logger="shop")
    assert not lines(shop, message="never seen"), "at DEBUG libraries log prompts"


@pytest.mark.agentscope
async def test_what_an_app_prints_is_its_own(shop: Instance) -> None:
    await ask(shop, new_session(), "req-2", **{"raise": True})
    await eventually(lambda: lines(shop, message="printed"), 20, "it is logged")
    assert lines(shop, message="printed")[0].keys() == {
        *("ts", "level", "message", "worker", "slot", "generation")
    }
    printed = '\\x1e{"level": "error", "message": "forged", "run": "x", "worker": "9.9"}'
    assert {(line["level"], line["worker"]) for line in lines(shop, message=printed)} == {("info", "0.1")}
    assert not lines(shop, message="forged"), "a print is no record"


@pytest.mark.agentscope
async def test_lines_of_one_session_or_run(shop: Instance) -> None:
    ann, bob = new_session("ann"), new_session("bob")
    runs = {session: await ask(shop, session, "req-3") for session in (ann, bob)}
    for option, value in (("--session", ann), ("--run", runs[ann])):
        await eventually(lambda: lines(shop, message="turn ends", run=runs[bob]), 20, "all is logged")
        shown = shop.command("logs", option, value)
        entries = [json.loads(line) for line in shown.stdout.splitlines()]
        assert {entry["run"] for entry in entries} == {runs[ann]}
        assert {"turn is accepted", "looks up 7", "turn ends"} <= {entry["message"] for entry in entries}


@pytest.mark.agentscope
async def test_no_prompt_no_token_no_session_at_the_finest_level(shop: Instance) -> None:
    session = new_session("hush-ann")
    await ask(shop, session, "req-4")
    await ask(shop, session, "req-5", **{"raise": True, "note": PROMPT})
    refused = await call(shop.port, "POST", "/invoke", headers={"Authorization": "Bearer hush-wrong"})
    assert refused.status == 401
    body = json.dumps({"session_id": session, "message": {"content": PROMPT, "role": "nobody"}}).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    assert (await call(shop.port, "POST", "/invoke", body=body, headers=headers)).status == 400
    for command in ("status", "deaths", "events", "logs"):
        assert "hush" not in shop.command(command, "-n", "500").stdout
    await eventually(lambda: len(lines(shop, message="turn ends", request="req-5")) == 1, 20, "all is logged")
    assert "hush" not in shop.log


async def test_a_line_for_people_has_them_too(
    start_instance: Callable[..., Instance],
) -> None:
    instance = start_instance(workers=1)
    session = new_session()
    failed = await invoke(instance.port, session, [{"raise": "no good"}])
    run = failed.headers["x-run-id"]
    digest = session_digest(session)
    wanted = f"the App raised worker=0.1 logger=agentscope_worker.serve run={run} session={digest} request="
    await eventually(lambda: wanted in instance.log, 20, "it is logged")
    assert "\n    RuntimeError: no good\n" in instance.log


TALKATIVE: Final = """
    import logging
    from pathlib import Path
    from agentscope.message import Msg
    from agentscope.runtime import AgentApp

    class App(AgentApp):
        async def __call__(self, msg, ctx):
            print("printed \U0001f389")
            print("a half: \\ud83d")
            print("begun, ", end="")
            logging.getLogger("shop").error("logged \U0001f389")
            print("ended")
            Path("note.txt").write_text("\U0001f389")
            yield Msg(name="a", content=Path("note.txt").read_text(), role="assistant")
"""


@pytest.mark.parametrize("preload", [False, True])
@pytest.mark.parametrize("encoding", ["ascii", "gbk"])
async def test_an_emoji_is_printed_and_logged_whatever_the_encoding_of_the_service_is(
    new_instance: Callable[..., Instance], tmp_path: Path, encoding: str, preload: bool
) -> None:
    config = json.dumps({**QUICK_STOP, "supervisor": {**QUICK_STOP["supervisor"], "preload": preload}})
    project = written(tmp_path / "магазин", TALKATIVE, config)
    variables = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    instance = new_instance(project, workers=1, variables=variables, arguments=["--log-format", "json"])
    instance.start()
    answer = await invoke(instance.port, new_session(), "hello")
    assert answer.status == 200, answer.body
    assert "\U0001f389" in json.dumps(answer.json, ensure_ascii=False)
    assert (project / "note.txt").read_text("utf-8") == "\U0001f389"
    await eventually(lambda: lines(instance, message="begun, ended"), 20, "all is logged")
    assert lines(instance, message="printed \U0001f389", level="info")
    assert lines(instance, message="a half: \\ud83d", level="info")
    (record,) = lines(instance, message="logged \U0001f389")
    assert (record["level"], record["logger"]) == ("error", "shop"), "a print does not tear a record"


async def test_what_a_dead_worker_logged_last_is_readable(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance(workers=1)
    await invoke(instance.port, new_session(), [{"raise": "no good"}])
    await invoke(instance.port, new_session(), [{"exit": 3}])
    (death,) = json.loads(instance.command("deaths", "--json").stdout)
    assert "ERROR agentscope_worker.serve: the App raised" in death["output"]
    assert death["output"][-1] == "RuntimeError: no good"
