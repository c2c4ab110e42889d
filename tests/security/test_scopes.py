"""Several tokens, and what each of them may do on each route."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from agentscope_supervisor.web.routes import READING, Route
from tests.conftest import StartInstance
from tests.harness import console, projects
from tests.harness.client import JSON, Response, call, invoke, new_session, turn_body
from tests.harness.instance import Instance
from tests.harness.waiting import eventually
from tools.docs.served_routes import served

SCOPES: Final = {
    "web": ["use"],
    "auditor": ["read"],
    "ops": ["operate"],
    "prom": ["metrics"],
    "all": ["use", "read", "operate", "metrics"],
}
ROUTES: Final = served()
FOR_OPERATORS: Final = {"/runs"}  # without the id of a session


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def written() -> dict[str, Any]:
    """The section `auth`: tokens as they may be written."""
    tokens: list[dict[str, Any]] = [{"name": name, "scopes": scopes} for name, scopes in SCOPES.items()]
    for each in tokens:
        each["token"] = f"{each['name']}-token"
    tokens[0]["token_sha256"] = hashlib.sha256(tokens[0].pop("token").encode()).hexdigest()
    del tokens[3]["token"]
    tokens[3]["token_file"] = "prom.token"
    return {"tokens": tokens}


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory, start_module_instance: StartInstance) -> Instance:
    project = projects.scripted(
        tmp_path_factory.mktemp("scopes") / "project", auth=written(), server={"console": "on"}
    )
    (project / "prom.token").write_text("prom-token\n")
    return start_module_instance(project, workers=1)


def assert_refused(response: Response, status: int, code: str, about: str = "") -> None:
    assert (response.status, response.code) == (status, code), (about, response.body)


def admitted(route: Route, method: str, scopes: list[str]) -> bool:
    needed = {"operate"} if route.path in FOR_OPERATORS else route.access.needs(method)
    return not needed.isdisjoint(scopes)


async def test_each_route_admits_the_scopes_that_its_table_says(instance: Instance) -> None:
    """A new route cannot be written without a decision: `Route` has no default for it."""
    outcomes: dict[str, set[str]] = {name: set() for name in SCOPES}
    for path, route in ROUTES.items():
        guarded = bool(route.access.reading)
        at = (
            path.replace("{run_id}", "r")
            .replace("{session_id}", new_session())
            .replace("{", "")
            .replace("}", "")
        )
        for method in route.methods:
            options: dict[str, Any] = {} if method in READING else {"body": b"{}"}
            stranger = await call(instance.port, method, at, headers=JSON, **options)
            assert (stranger.status == 401) is guarded, (method, path, stranger.status)
            for name, scopes in SCOPES.items() if guarded else ():
                answer = await call(
                    instance.port, method, at, headers=JSON | bearer(f"{name}-token"), **options
                )
                assert answer.status != 401, (method, path, name)
                assert (answer.status == 403) is not admitted(route, method, scopes), (method, path, name)
                if answer.status != 403:
                    outcomes[name].add(f"{method} {path}")
    assert outcomes["all"] > outcomes["web"] > outcomes["auditor"]
    assert {"GET /", "GET /metrics"} < outcomes["prom"]
    assert "POST /invoke" not in outcomes["ops"]
    assert {"GET /sessions", "POST /stop"} < outcomes["ops"]


async def test_a_refusal_names_the_scope_that_is_missing(instance: Instance) -> None:
    body = turn_body(new_session(), "x")
    refused = await call(instance.port, "POST", "/invoke", body=body, headers=JSON | bearer("auditor-token"))
    assert_refused(refused, 403, "FORBIDDEN")
    assert refused.json["error"]["message"] == (
        "this request requires the scope use, and the token 'auditor' has read"
    )


async def test_turns_run_for_tokens_with_the_scope_and_operators_sign_in(instance: Instance) -> None:
    session = new_session()
    assert (await invoke(instance.port, session, "x", headers=bearer("web-token"))).status == 200
    runs = await call(instance.port, "GET", f"/runs?session_id={session}", headers=bearer("auditor-token"))
    assert len(runs.json["runs"]) == 1
    listed = await call(instance.port, "GET", "/sessions", headers=bearer("ops-token"))
    assert session in [each["session_id"] for each in listed.json["sessions"]]
    body = json.dumps({"token": "web-token"}).encode()
    page = {**JSON, "Origin": f"http://localhost:{instance.port}", "Host": f"localhost:{instance.port}"}
    assert_refused(
        await call(instance.port, "POST", "/console", body=body, headers=page), 401, "UNAUTHORIZED"
    )
    cookie = await console.signed_in(instance, "ops-token")
    assert (await invoke(instance.port, session, "x", headers=cookie)).status == 200


async def test_a_reload_exchanges_tokens_and_fails_no_request(
    start_instance: StartInstance, make_project: Callable[..., Path]
) -> None:
    tokens = [{"name": "web", "token": "old"}, {"name": "other", "token_file": "other.token"}]
    project = make_project(auth={"tokens": tokens})
    (project / "other.token").write_text("first")
    instance = start_instance(project, workers=1)
    over, statuses = asyncio.Event(), []

    async def other() -> None:
        while not over.is_set():
            statuses.append((await invoke(instance.port, new_session(), "x", headers=bearer("first"))).status)

    async def status(token: str) -> int:
        return (await invoke(instance.port, new_session(), "x", headers=bearer(token))).status

    others = asyncio.create_task(other())
    tokens[0]["token"] = "new"
    projects.configure(project, auth={"tokens": tokens})
    done = await asyncio.to_thread(instance.command, "reload")
    assert done.returncode == 0, done.stderr
    await eventually(lambda: "rollout done" in instance.log, 60, "the rollout is done")
    assert [await status("new"), await status("old"), await status("first")] == [200, 401, 200]
    over.set()
    await others
    assert set(statuses) == {200}
    (project / "other.token").unlink()
    refused = await asyncio.to_thread(instance.command, "reload")
    assert refused.returncode != 0
    assert "token_file" in refused.stdout + refused.stderr
    assert await status("first") == 200, "the tokens in service stay"
