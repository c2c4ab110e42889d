"""The console in a real browser on a real instance, and its answers to requests from other pages."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from agentscope_protocol.config.auth_settings import AuthSettings
from agentscope_protocol.config.settings import ServerSettings
from agentscope_supervisor.http1.aiohttp_connection import HttpLimits, Server
from agentscope_supervisor.system.log_buffer import LogBuffer
from agentscope_supervisor.web import console as console_routes
from agentscope_supervisor.web.access.console_auth import SignIns
from agentscope_supervisor.web.access.tokens import Tokens
from agentscope_supervisor.web.console import MAX_WATCHERS, Console
from agentscope_supervisor.workers.revisions import ReloadRefused
from tests.conftest import StartInstance
from tests.harness.browser import Chromium, Page
from tests.harness.client import Connection, Response, call, invoke, new_session, request
from tests.harness.console import link, signed_in
from tests.harness.instance import READY_WITHIN, Instance
from tests.harness.waiting import eventually

ON: Final = {"console": "on"}
QUICK: Final = {"soak": 0.1}
TOKEN: Final = "t0ken"
EVIL: Final = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'
LAST: Final = "#talk .said:last-of-type:not(.mine)"  # the answer to the last message
IDLE: Final = "!document.querySelector('#send').hidden"


@pytest.fixture(scope="module")
def _console(start_module_instance: StartInstance) -> Instance:
    return start_module_instance(server=ON, supervisor=QUICK)


@pytest.fixture
def console(_console: Instance) -> Instance:
    """An instance with a console, two ready slots and no token."""
    _console.wait_ready()
    return _console


@pytest.fixture
async def page(console: Instance, chromium: Chromium) -> AsyncIterator[Page]:
    """The page of the console. Checks at the end that the page has reported no problem."""
    async with Page(chromium) as page:
        await opened(page, console)
        yield page
        assert page.problems == []


async def opened(page: Page, instance: Instance) -> Page:
    await page.goto(url(instance))
    await page.sees(
        "document.querySelector('#login').open || document.querySelector('#status').innerText === 'healthy'"
    )
    if await page.run("document.querySelector('#login').open"):
        await page.goto("about:blank")  # else the browser would only change the fragment
        await page.goto(link(instance))
    await page.reads("healthy", "#status")
    return page


def url(instance: Instance, path: str = "/console") -> str:
    return f"http://127.0.0.1:{instance.port}{path}"


async def say(page: Page, script: object) -> None:
    """Type a message into the chat and send it."""
    await page.run("location.hash = '#chat'")
    await page.sees(IDLE)
    await page.type("#text", script if isinstance(script, str) else json.dumps(script))
    await page.press("Enter")


# -- the chat ------------------------------------------------------------------------------------------


async def test_an_answer_is_shown_while_it_streams(page: Page, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    await say(page, [{"say": "one "}, {"wait_for": str(gate)}, {"say": "two"}])
    await page.reads("one", LAST)
    assert await page.run(f"document.querySelector('{LAST}').ariaBusy") == "true"
    gate.touch()
    await page.reads("one two", LAST)
    await page.sees(IDLE)
    assert await page.run(f"document.querySelector('{LAST}').ariaBusy") is None


async def test_escape_stops_the_answer(page: Page, console: Instance) -> None:
    await say(page, [{"say": "begun"}, {"sleep": 60}])
    await page.reads("begun", LAST)
    await page.press("Escape")
    await page.reads("Stopped.", LAST)
    assert console.health()["turns"]["open"] == 0
    await say(page, "on we go")
    await page.reads("on we go", LAST)


async def test_the_stop_button_stops_a_turn_without_output(page: Page, console: Instance) -> None:
    await say(page, [{"sleep": 60}])
    await eventually(lambda: console.health()["turns"]["open"] == 1, 30.0, "the turn runs")
    await page.click("#stop")
    await page.reads("Stopped.", LAST)
    assert console.health()["turns"]["open"] == 0


async def test_an_error_of_the_app_is_explained(page: Page) -> None:
    await say(page, [{"say": "so far "}, {"raise": "the tool is broken"}])
    await page.reads("so far", LAST)
    await page.reads("The app raised an error. The log has its traceback. (the tool is broken)", LAST)


async def test_the_session_can_be_switched(page: Page) -> None:
    async def session() -> Any:
        return await page.run("document.querySelector('#session').innerText")

    await say(page, "in the first")
    await page.reads("in the first", LAST)
    first = await session()
    await page.click("#new")
    await say(page, [{"context": 1}])
    await page.reads('"session_id"', LAST)
    second = await session()
    assert second != first
    await page.reads(f'"session_id": "{second}"', LAST)
    assert not await page.run("document.querySelector('#talk').innerText.includes('in the first')")

    await page.click(f'[data-session="{first}"]')
    await page.reads("in the first", "#talk")
    await page.type("#search", "user 7/ü")
    await page.reads("Open “user 7/ü”", "#threads")
    await page.press("Enter")
    await say(page, [{"context": 1}])
    await page.reads('"session_id": "user 7/\\u00fc"', LAST)


async def choose(page: Page, selector: str, value: str) -> None:
    """Select an option of a list, as a user does."""
    it, chosen = f"document.querySelector({json.dumps(selector)})", json.dumps(value)
    await page.run(f"{it}.value = {chosen}; {it}.dispatchEvent(new Event('change'))")


async def test_markup_from_any_source_stays_text(page: Page, console: Instance) -> None:
    await say(page, [{"say": EVIL, "name": EVIL}, {"print": EVIL}, {"say": [{"type": "text", "text": EVIL}]}])
    await page.sees(IDLE)
    await page.reads(EVIL, LAST)
    await page.reads(EVIL, "#log")
    await say(page, [{"raise": EVIL}])
    await page.reads(EVIL, f"{LAST} .end")
    asked = asyncio.create_task(invoke(console.port, f"{EVIL}", [{"print": EVIL}, {"sleep": 60}]))
    await page.reads(EVIL, "#sessions")
    (busy,) = [worker for worker in console.health()["workers"] if worker["turns"]]
    os.kill(busy["pid"], signal.SIGKILL)
    assert (await asked).code == "WORKER_LOST"
    dead = f"{busy['slot']}.{busy['generation']}"
    await page.sees(f"document.querySelector('#deaths details[data-key^=\"{dead} \"] pre')")
    assert EVIL in await page.run(
        f"document.querySelector('#deaths details[data-key^=\"{dead} \"]').textContent"
    )
    assert await page.run("document.querySelectorAll('img, body script').length") == 0
    assert await page.run("window.pwned") is None
    await eventually(lambda: len(console.ready_workers()) == 2, READY_WITHIN, "the worker is back")


MARKDOWN: Final = """**Three** orders:

| order | state |
|---|---|
| 4711 | sent |

```python
total = sum(orders)
```

[docs](https://example.com/) [bad](javascript:window.pwned=1) ![seen](https://example.com/spy.png) <b>raw</b>
"""

TOOL_TURN: Final = [
    {"say": [{"type": "thinking", "thinking": "I look *them* up."}]},
    {"say": [{"type": "tool_call", "id": "1", "name": "find_orders", "input": '{"customer": 7}'}]},
    {
        "say": [
            {"type": "tool_result", "id": "1", "name": "find_orders", "output": "4711", "state": "success"}
        ]
    },
    {"say": [{"type": "tool_call", "id": "2", "name": "send_mail", "input": "{}"}]},
    {
        "say": [
            {"type": "tool_result", "id": "2", "name": "send_mail", "output": "no server", "state": "error"}
        ]
    },
    {"say": [{"type": "text", "text": MARKDOWN[:20]}]},
    {"say": [{"type": "text", "text": MARKDOWN[20:]}]},
]


async def test_markdown_tool_calls_and_thinking_are_shown(page: Page) -> None:
    await say(page, TOOL_TURN)
    await page.reads("<b>raw</b>", LAST)
    await page.sees(IDLE)

    async def count(selector: str) -> Any:
        return await page.run(f"document.querySelectorAll({json.dumps(f'{LAST} {selector}')}).length")

    assert await count(".markdown strong") == 1
    assert await count(".markdown td") == 2
    await page.reads("total = sum(orders)", f"{LAST} .code pre")
    await page.reads("python", f"{LAST} .code figcaption")
    assert await count(".tool") == 2
    assert await count(".tool[data-state=done]") == 1
    assert await count(".tool[data-state=failed]") == 1
    await page.click(f"{LAST} .tool[data-state=failed] summary")
    await page.reads("no server", f"{LAST} .tool[data-state=failed] .result")
    assert await count(".thinking[open]") == 0
    await page.click(f"{LAST} .thinking summary")
    assert await count(".thinking em") == 1
    # Neither a link nor a picture of a model can act or load anything.
    assert await count("img") == 0
    assert await page.run(f"[...document.querySelectorAll('{LAST} a')].map(each => each.href)") == [
        "https://example.com/",
        "",
        "https://example.com/spy.png",
    ]


async def test_a_message_can_be_sent_again_and_edited(page: Page) -> None:
    await say(page, "the first")
    await page.reads("the first", LAST)
    await page.sees(IDLE)
    answers = "document.querySelectorAll('#talk .said:not(.mine)').length"
    before = await page.run(answers)
    await press_button(page, "Retry")
    await page.sees(f"{answers} === {before + 1} && {IDLE}")
    await page.reads("the first", LAST)
    await press_button(page, "Edit")
    assert await page.run("document.querySelector('#text').value") == "the first"


async def test_what_a_session_of_another_client_was_answered_is_shown(page: Page, console: Instance) -> None:
    session = new_session("theirs")
    await invoke(console.port, session, [{"say": "an *old* answer"}])
    await page.type("#search", session)
    await page.press("Enter")
    await page.reads("an old answer", LAST)
    await say(page, "and now?")
    await page.reads("and now?", LAST)


async def press_button(page: Page, name: str) -> None:
    """Click the last button of the conversation that has this name."""
    buttons = "[...document.querySelectorAll('#said button')]"
    await page.run(f"{buttons}.findLast(each => each.innerText === {json.dumps(name)}).click()")


async def test_a_reload_of_the_page_in_the_middle_of_an_answer_loses_nothing(
    page: Page, console: Instance, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    await say(page, "before it")
    await page.reads("before it", LAST)
    await say(page, [{"say": "one "}, {"wait_for": str(gate)}, {"say": "two"}])
    await page.reads("one", LAST)
    session = await page.run("document.querySelector('#session').innerText")
    await page.goto(url(console))
    await page.reads("one", LAST)
    assert await page.run("document.querySelector('#session').innerText") == session
    await page.reads("before it", "#talk")
    gate.touch()
    await page.reads("one two", LAST)
    await page.sees(IDLE)


# -- the instance --------------------------------------------------------------------------------------


async def test_a_killed_worker_and_its_replacement_are_shown(page: Page, console: Instance) -> None:
    await say(page, [{"say": "going "}, {"print": "my last words"}, {"sleep": 60}])
    await page.reads("going", LAST)
    (busy,) = [worker for worker in console.health()["workers"] if worker["turns"]]
    slot, generation = busy["slot"], busy["generation"]
    os.kill(busy["pid"], signal.SIGKILL)
    await page.reads("The worker crashed during this turn.", LAST)
    await page.sees(f"document.querySelector('[data-worker=\"{slot}.{generation + 1}\"][data-state=ready]')")
    await page.sees(f"!document.querySelector('[data-worker=\"{slot}.{generation}\"]')")
    dump = f"#deaths details[data-key^='{slot}.{generation} ']"
    await page.reads("signal: SIGKILL", dump)
    await page.run("location.hash = '#instance'")
    await page.click(f"{dump} summary")
    await page.reads("my last words", f"{dump} pre")
    await say(page, "are you back?")
    await page.reads("are you back?", LAST)
    assert await page.run(f"document.querySelector('{LAST}').innerText.includes('{slot}.{generation + 1}')")


async def test_open_turns_are_shown_and_lead_to_their_session(
    page: Page, console: Instance, tmp_path: Path
) -> None:
    session, gate = new_session("theirs"), tmp_path / "gate"
    asked = asyncio.create_task(invoke(console.port, session, [{"wait_for": str(gate)}]))
    await page.run("location.hash = '#instance'")
    await page.click("#sessions button")
    assert await page.run("document.querySelector('#session').innerText") == session
    gate.touch()
    await asked
    await page.reads("No open turns.", "#sessions")


async def test_restart_replaces_the_workers(page: Page, console: Instance) -> None:
    before = console.generations()
    await page.run("location.hash = '#instance'")
    await page.click("#restart")
    await page.reads("All workers have been replaced.", "#notice")
    assert all(new > old for new, old in zip(console.generations(), before, strict=True))
    await page.reads("done", "#rollout")


async def test_a_refused_restart_is_shown_with_its_reason(
    page: Page, console: Instance, chromium: Chromium
) -> None:
    before, good = console.ready_workers(), console.project / "agentapp.yaml"
    kept = good.read_text()
    good.write_text("server: {port: high}")
    await page.run("location.hash = '#instance'")
    try:
        await page.click("#restart")
        await page.reads("the previous workers stay", "#notice")
        async with Page(chromium) as other:
            await opened(other, console)  # every page shows the reason
            await other.reads("agentapp.yaml:1: server.port", "#notice")
        await page.reads("agentapp.yaml:1: server.port", "#notice")
    finally:
        good.write_text(kept)
    assert console.ready_workers() == before


async def test_a_rollout_to_broken_code_shows_its_error(page: Page, console: Instance) -> None:
    app = console.project / "app.py"
    kept = app.read_text()
    app.write_text("def broken(:\n")
    await page.run("location.hash = '#instance'")
    try:
        await page.click("#restart")
        await page.reads("the previous workers stay", "#notice")
        await page.reads("SyntaxError", "#notice")
        await opened(page, console)  # a page that is opened later shows it too
        await page.reads("SyntaxError", "#notice")
    finally:
        app.write_text(kept)
    await say(page, "who serves?")
    await page.reads("who serves?", LAST)


async def test_an_error_in_an_edit_is_shown_until_it_is_fixed(
    new_instance: StartInstance, make_project: Callable[..., Path], chromium: Chromium
) -> None:
    project = make_project(server=ON, supervisor=QUICK)
    good = (project / "app.py").read_text()
    instance = new_instance(project, workers=1, arguments=["--reload"]).start()
    async with Page(chromium) as page:
        await opened(page, instance)
        await page.reads("watching the project", "#log")
        (project / "app.py").write_text("def broken(:\n")
        await page.reads("SyntaxError", "#notice")
        await page.reads("app.py", "#notice")
        await say(page, "who serves?")
        await page.reads("who serves?", LAST)
        (project / "app.py").write_text(good)
        await page.sees("document.querySelector('#notice').hidden")
        assert page.problems == []


async def test_drain_refuses_turns_until_it_ends(page: Page) -> None:
    await page.run("location.hash = '#instance'")
    await page.click("#drain")
    await page.reads("draining", "#status")
    await say(page, "hello?")
    await page.reads("The instance is draining and refuses new turns.", LAST)
    await page.run("location.hash = '#instance'")
    await page.reads("Accept turns again", "#drain")
    await page.click("#drain")
    await page.reads("healthy", "#status")
    await say(page, "hello again")
    await page.reads("hello again", LAST)


async def test_the_log_can_be_filtered(page: Page) -> None:
    await say(page, [{"print": "printed by a worker"}])
    await page.reads("printed by a worker", "#log")
    await page.run("location.hash = '#instance'")
    await choose(page, "#filter", "events")
    shown = await page.run("document.querySelector('#log').innerText")
    assert "worker is ready" in shown
    assert "printed by a worker" not in shown


async def test_the_exit_of_the_instance_is_shown(start_instance: StartInstance, chromium: Chromium) -> None:
    instance = start_instance(server=ON, workers=1)
    async with Page(chromium) as page:
        await opened(page, instance)
        assert await asyncio.to_thread(instance.stop) == 0
        await page.reads("no connection", "#status")
        await say(page, "are you there?")
        await page.reads("The instance does not answer. Check that it is running.", LAST)


# -- screen sizes and keyboard -------------------------------------------------------------------------


@pytest.mark.parametrize("width, dark", [(360, True), (360, False), (1280, True)])
async def test_the_page_fits_any_screen_in_dark_and_light_mode(
    console: Instance, chromium: Chromium, width: int, dark: bool
) -> None:
    async with Page(chromium, width=width, height=740, dark=dark) as page:
        await opened(page, console)
        await say(page, "word" * 200)
        await page.reads("word" * 200, LAST)
        assert await page.run("document.documentElement.scrollWidth <= window.innerWidth")
        ground, ink = [
            sum(
                int(part)
                for part in (await page.run(f"getComputedStyle(document.body).{what}"))[4:-1].split(",")
            )
            for what in ("backgroundColor", "color")
        ]
        assert (ground < ink) is dark
        assert page.problems == []


async def test_every_control_can_be_reached_by_keyboard(page: Page) -> None:
    reached: set[str] = set()

    async def reach(last: str) -> None:
        async with asyncio.timeout(60):
            while last not in reached:
                await page.press("Tab")
                reached.add(await page.run("document.activeElement.id"))
                focus = "getComputedStyle(document.activeElement).outlineStyle"
                assert await page.run(f"document.activeElement === document.body || {focus} !== 'none'")

    await reach("text")  # the element that has the focus at first
    await page.run("location.hash = '#instance'")
    await reach("log")
    assert reached >= {"to-chat", "to-instance", "leave", "search", "new", "talk", "text", "send"}
    assert reached >= {"restart", "drain", "all-exits", "filter", "log"}


# -- the token -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(start_module_instance: StartInstance) -> Instance:
    """An instance with a console and a token."""
    return start_module_instance(server={**ON, "auth_token": TOKEN}, supervisor=QUICK, workers=1)


async def log_in(page: Page, instance: Instance) -> None:
    await page.goto(url(instance))
    await page.sees("document.querySelector('#login').open")
    await page.type("#token", TOKEN)
    await page.press("Enter")
    await page.reads("healthy", "#status")


async def test_the_page_asks_for_the_token_once(guarded: Instance, chromium: Chromium) -> None:
    async with Page(chromium) as page:
        await page.goto(url(guarded))
        await page.sees("document.querySelector('#login').open")
        await page.type("#token", "something else")
        await page.press("Enter")
        await page.reads("The token is not correct.", "#login")
        assert await page.cookies() == []
        await log_in(page, guarded)
        await page.sees("!document.querySelector('#login').open")
        await say(page, "with a cookie")
        await page.reads("with a cookie", LAST)

        await opened(page, guarded)
        assert not await page.run("document.querySelector('#login').open")
        (cookie,) = await page.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
        assert TOKEN not in cookie["value"]
        assert await page.run("document.cookie") == ""
        assert page.problems == []


async def test_a_browser_signs_out(guarded: Instance, chromium: Chromium) -> None:
    async with Page(chromium) as page:
        await log_in(page, guarded)
        await page.click("#leave")
        await page.sees("document.querySelector('#login')?.open")  # the page is loaded again
        assert [cookie["value"] for cookie in await page.cookies()] == []
        await log_in(page, guarded)


async def test_a_used_link_asks_for_another_one(console: Instance, chromium: Chromium) -> None:
    used = link(console)
    async with Page(chromium) as page:
        await page.goto(used)
        await page.reads("healthy", "#status")
        assert await page.run("location.hash") == ""
    async with Page(chromium) as another:
        await another.goto(used)
        await another.sees("document.querySelector('#login').open")
        await another.type("#token", link(console).partition("#token=")[2])
        await another.press("Enter")
        await another.reads("healthy", "#status")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_pages_of_other_origins_cannot_use_the_cookie(
    guarded: Instance, shared: Instance, chromium: Chromium, host: str
) -> None:
    """The browser sends the cookie to the same host on another port, but not to another host."""
    async with Page(chromium) as page:
        await log_in(page, guarded)
        before = guarded.generations()
        await page.goto(f"http://{host}:{shared.port}/health")
        for route in ("/console/restart", "/console/maintenance", "/stop", "/invoke"):
            refused = await statuses(guarded, route)
            await strange(page, url(guarded, route), "POST")
            assert await statuses(guarded, route) == {**refused, "403": refused.get("403", 0) + 1}
        refused = await statuses(guarded, "/console/live")
        await strange(page, url(guarded, "/console/live"), "GET")
        assert await statuses(guarded, "/console/live") == {**refused, "403": refused.get("403", 0) + 1}
        assert guarded.generations() == before


async def strange(page: Page, target: str, method: str) -> None:
    """Make the browser send a request with cookies from another page; that page cannot read the answer."""
    options = {"method": method, "mode": "no-cors", "credentials": "include"}
    await page.run(f"fetch({json.dumps(target)}, {json.dumps(options)}).then(() => true)")


async def statuses(instance: Instance, route: str) -> dict[str, int]:
    """Return how often requests to a route were answered with each status."""
    text = (await call(instance.port, "GET", "/metrics")).body.decode()
    found = {}
    for line in text.splitlines():
        if line.startswith(f'agentscope_http_requests_total{{route="{route}",'):
            found[line.split('status="')[1][:3]] = int(float(line.split()[-1]))
    return found


async def test_cookie_and_token_identify_the_same_caller(guarded: Instance) -> None:
    """Idempotency keys are separate for each caller, so the same key shows that the caller is the same."""
    browser = await signed_in(guarded, TOKEN)
    one = await invoke(guarded.port, "one", "hello", headers={**browser, "Idempotency-Key": "same"})
    two = await invoke(
        guarded.port, "one", "hello", headers={"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": "same"}
    )
    assert one.json["run_id"] == two.json["run_id"]


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


# -- accepted origins ----------------------------------------------------------------------------------


async def asked(instance: Instance, path: str, browser: dict[str, str], **headers: str) -> Response:
    """Send a POST as a page of a browser would. An empty value removes the header."""
    ours = {**browser, "Origin": f"http://localhost:{instance.port}", "Sec-Fetch-Site": ""}
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {name: value for name, value in (ours | sent).items() if value}
    return await call(instance.port, "POST", path, body=body(on=False), headers=fields)


async def test_without_a_token_only_requests_of_the_own_page_are_accepted(console: Instance) -> None:
    before, browser = console.generations(), await signed_in(console)
    assert (await asked(console, "/console/maintenance", browser)).status == 200
    for headers, status in (
        ({"Origin": ""}, 401),
        ({"Cookie": ""}, 401),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Host": "evil.com", "Origin": "http://evil.com"}, 403),
    ):
        for path in ("/console/maintenance", "/console/restart"):
            refused = await asked(console, path, browser, **headers)
            assert refused.status == status, headers
    live = await call(console.port, "GET", "/console/live", headers={"Host": "localhost"})
    assert live.code == "UNAUTHORIZED"
    assert console.generations() == before


async def test_requests_of_another_page_in_the_browser_are_refused(
    console: Instance, shared: Instance, chromium: Chromium
) -> None:
    before = console.generations()
    async with Page(chromium) as page:
        await page.goto(url(shared, "/health"))
        refused = await statuses(console, "/console/restart")
        await strange(page, url(console, "/console/restart"), "POST")
        assert (await statuses(console, "/console/restart"))["403"] == refused.get("403", 0) + 1
    assert console.generations() == before


async def test_malformed_requests_are_refused(console: Instance, guarded: Instance) -> None:
    ours = await signed_in(console)
    assert (await asked(console, "/console", ours)).code == "INVALID_REQUEST"
    assert (await asked(console, "/console", ours, Origin="http://evil.com")).code == "FORBIDDEN"
    assert (await asked(console, "/console", ours, Origin="")).code == "FORBIDDEN"
    nonsense = await call(console.port, "POST", "/console/maintenance", body=body(on=1), headers=ours)
    assert nonsense.code == "INVALID_REQUEST"
    assert (await call(console.port, "PUT", "/console", headers=ours)).code == "METHOD_NOT_ALLOWED"
    huge = await call(console.port, "POST", "/console", body=body(token="x" * 70_000), headers=ours)
    assert huge.code == "PAYLOAD_TOO_LARGE"
    wrong = await call(console.port, "POST", "/console", body=body(token="x"), headers=ours)
    assert (wrong.code, "set-cookie" in wrong.headers) == ("UNAUTHORIZED", False)


async def test_the_console_is_off_by_default(shared: Instance) -> None:
    for path in ("/console", "/console/live", "/console/main.js"):
        assert (await call(shared.port, "GET", path)).code == "NOT_FOUND"


async def test_the_page_uses_no_external_or_inline_resources(console: Instance) -> None:
    page = await call(console.port, "GET", "/console")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    text = page.body.decode()
    assert "//" not in text.replace("<!doctype", "")
    assert "style=" not in text
    scripts = ("main", "chat", "sessions", "answer", "markdown", "instance", "server", "elements")
    libraries = ("marked.js", "dompurify.js")
    for asset in (*(f"{each}.js" for each in scripts), *libraries, "licenses.txt", "style.css", "icon.svg"):
        answer = await call(console.port, "GET", f"/console/{asset}")
        assert answer.status == 200, asset
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert (await call(console.port, "GET", "/console/page.html")).code == "NOT_FOUND"
    assert (await call(console.port, "GET", "/console/../cli.py")).code == "NOT_FOUND"


# -- the event stream ----------------------------------------------------------------------------------


async def watching(stack: AsyncExitStack, instance: Instance, browser: dict[str, str]) -> Connection:
    """Return a connection that has requested the event stream."""
    connection = await stack.enter_async_context(Connection(instance.port))
    await connection.send(request("GET", "/console/live", None, browser))
    return connection


async def test_the_number_of_open_pages_is_limited(console: Instance) -> None:
    browser = await signed_in(console)
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        for _ in range(MAX_WATCHERS):
            connection = await watching(stack, console, browser)
            assert (await connection.head()).status == 200
        refused = await watching(stack, console, browser)
        assert (await refused.answer()).code == "OVERLOADED"
        connection.abort()
        while True:
            late = await watching(stack, console, browser)
            if (await late.head()).status == 200:
                break


async def test_the_stream_ends_cleanly_with_the_instance(start_instance: StartInstance) -> None:
    instance = start_instance(server=ON, workers=1)
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        connection = await watching(stack, instance, await signed_in(instance))
        head = await connection.head()
        stopping = asyncio.create_task(asyncio.to_thread(instance.stop))
        received = b"".join([piece async for piece in connection.body(head)])
        assert b"event: status\n" in received
        assert b"event: deaths\n" in received
        assert b"event: log\n" in received
        assert await stopping == 0


async def test_a_stalled_page_is_disconnected_and_frees_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(console_routes, "STALLED_AFTER", 0.2)
    monkeypatch.setattr(console_routes, "MAX_WATCHERS", 1)
    console = Console(
        ServerSettings(),
        SignIns("", "", Tokens(None, AuthSettings())),
        Busy(),
        LogBuffer(),
        "http://localhost",
    )
    console.admits = lambda _: True  # type: ignore[method-assign]  # signed in
    server = Server(lambda request: console.live(request, {}), HttpLimits(5.0, 1024))
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: server.connect(False, lambda: None), "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    ours = {"Host": "localhost", "Sec-Fetch-Site": "same-origin"}
    async with asyncio.timeout(60), Connection(port, receive_buffer=4096) as asleep:
        await asleep.send(request("GET", "/console/live", None, ours))
        await eventually(lambda: console._watchers == 1, 30.0, "the page is served")
        await eventually(lambda: console._watchers == 0, 30.0, "the page is disconnected")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            async for _ in asleep.body(await asleep.head()):
                pass
        monkeypatch.undo()  # a page that reads is not disconnected
        async with Connection(port) as awake:
            await awake.send(request("GET", "/console/live", None, ours))
            head = await awake.head()
            console.close()
            received = sum([len(piece) async for piece in awake.body(head)])
            assert received > MUCH
    listening.close()
    await server.shutdown(0.1)


MUCH: Final = 16_000_000  # bytes; more than the buffers between two processes hold


class Busy:
    """Handlers that return large answers."""

    async def status(self) -> dict[str, Any]:
        return {"deaths": {}, "padding": "x" * MUCH}

    def sessions(self) -> list[dict[str, Any]]:
        return []

    deaths = sessions

    def reload(self) -> ReloadRefused:
        return ReloadRefused("busy")

    def maintain(self, on: bool) -> None:
        pass
