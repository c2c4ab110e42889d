"""/openapi.json and /docs: the routes that an instance serves, shown and tried in a real browser."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest
from openapi_spec_validator import validate

from tests.conftest import StartInstance
from tests.harness.browser import Chromium, Page
from tests.harness.client import call
from tests.harness.instance import Instance

TOKEN: Final = "t0ken"
AUTHORIZED: Final = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def instance(start_module_instance: StartInstance) -> Iterator[Instance]:
    """An instance with a console and a token, without metrics."""
    server = {"console": "on", "auth_token": TOKEN, "metrics": False}
    return start_module_instance(workers=1, server=server)


@pytest.fixture
async def page(instance: Instance, chromium: Chromium) -> AsyncIterator[Page]:
    """The page of the API, with the token. Checks at the end that it has broken no rule of its policy."""
    async with Page(chromium) as page:
        await page.goto(f"http://127.0.0.1:{instance.port}/docs")
        await page.reads("this route requires the header Authorization", "#problem")
        page.problems.clear()  # the browser reports the 401
        await page.type("#token", TOKEN)
        await page.click("#load")
        await page.reads("agentscope-supervisor", "#title")
        yield page
        assert page.problems == []


async def document(port: int, headers: dict[str, str] | None = None) -> Any:
    response = await call(port, "GET", "/openapi.json", headers=headers)
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    return response.json


async def test_the_document_has_the_routes_that_are_on(instance: Instance, shared: Instance) -> None:
    everything = await document(shared.port)
    validate(everything)
    assert {"/invoke", "/invoke/", "/runs", "/sessions/{session_id}/messages", "/metrics"} <= set(
        everything["paths"]
    )
    assert set(everything["paths"]["/sessions/{session_id}"]) == {"get", "delete"}
    for path, methods in everything["paths"].items():
        if "get" in methods and "{" not in path and path not in ("/sessions", "/runs"):
            assert (await call(shared.port, "GET", path)).status == 200, path
    assert "/metrics" not in (await document(instance.port, AUTHORIZED))["paths"]


async def test_who_gets_what(instance: Instance, shared: Instance) -> None:
    assert (await call(instance.port, "GET", "/openapi.json")).status == 401
    page = await call(instance.port, "GET", "/docs")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert b"://" not in page.body, "nothing is loaded from elsewhere"
    assert (await call(shared.port, "GET", "/docs")).status == 404, "as a service there is no page"


async def test_a_turn_is_tried_and_its_events_are_shown(page: Page) -> None:
    operation = "#post_invoke"
    await page.run(f"document.querySelector('{operation}').open = true")
    curl = await page.run(f"document.querySelector('{operation} .curl').textContent")
    assert curl.startswith("curl -N -X POST 'http://127.0.0.1:")
    assert TOKEN not in curl
    await page.click(f"{operation} button")
    await page.reads("200 OK", f"{operation} .answer")
    await page.reads('"done":true', f"{operation} .answer")


async def test_a_parameter_goes_into_the_path(page: Page) -> None:
    operation = "#get_sessions_session_id_messages"
    await page.run(f"document.querySelector('{operation}').open = true")
    await page.type(f"{operation} input[name=session_id]", "a/<b>")
    await page.reads("/sessions/a%2F%3Cb%3E/messages", f"{operation} .curl")
    await page.click(f"{operation} button")
    await page.reads('"session_id":"a/<b>"', f"{operation} .answer")
