"""The routes of all dialects that are on: those that begin a turn, and those that a protocol has beside them.

Where to read next: `invoke` begins the turns, `openai` has the other routes of OpenAI's API.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Final
from urllib.parse import unquote

from agentscope_protocol.config.protocol_settings import ProtocolsSettings
from agentscope_supervisor.domain.request import session_id
from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.http1.responses import json_response
from agentscope_supervisor.runs.recorder import Recorder
from agentscope_supervisor.turns.service import TurnService
from agentscope_supervisor.web.a2a import A2aRoutes, HasToken
from agentscope_supervisor.web.dialects import DIALECTS, INVOKE, a2a
from agentscope_supervisor.web.dialects.agentcore import AGENTCORE
from agentscope_supervisor.web.dialects.ai_sdk import AI_SDK
from agentscope_supervisor.web.dialects.chat import CHAT
from agentscope_supervisor.web.dialects.dialect import Dialect
from agentscope_supervisor.web.dialects.responses import RESPONSES
from agentscope_supervisor.web.invoke import InvokeRoute
from agentscope_supervisor.web.openai import ResponseRoutes, models
from agentscope_supervisor.web.routes import ANYBODY, OF_AN_ID, PUBLIC, TURNS, Asked, Handler, Route, plain
from agentscope_supervisor.web.runs import RunRoutes

DASHSCOPE: Final = "/compatible-mode"
"""The prefix of OpenAI's API in the URLs that clients of DashScope have."""


def chosen(protocols: ProtocolsSettings) -> Sequence[Dialect]:
    """The dialects that are on."""
    return [each for each in DIALECTS if not each.setting or getattr(protocols, each.setting) is not False]


def routes_of(
    protocols: ProtocolsSettings,
    invoke: InvokeRoute,
    runs: RunRoutes,
    recorder: Recorder,
    turns: TurnService,
    has_token: HasToken,
) -> list[Route]:
    """The routes of the dialects that are on."""
    dialects = chosen(protocols)
    routes = [_turn(each.path, each, invoke) for each in dialects if each.path != a2a.PATH]
    routes.append(_turn(f"{INVOKE.path}/", INVOKE, invoke))
    if protocols.a2a is not False:
        tasks = A2aRoutes(invoke, runs, protocols.a2a, has_token)
        routes.append(Route(a2a.PATH, tasks.rpc, TURNS, ("POST",), refuse=a2a.refuse))
        routes += [
            Route(f"/.well-known/{name}.json", plain(tasks.card), PUBLIC) for name in ("agent-card", "agent")
        ]
    if CHAT in dialects:
        routes.append(Route("/v1/models", plain(models), ANYBODY, refuse=CHAT.refuse))
    if RESPONSES in dialects:
        routes.append(_turn(DASHSCOPE + RESPONSES.path, RESPONSES, invoke))
        routes += _responses(ResponseRoutes(recorder, runs))
    if AI_SDK in dialects:
        reconnect = partial(_reconnect, runs, turns)
        routes.append(Route(f"{AI_SDK.path}/{{chat_id}}/stream", reconnect, OF_AN_ID, refuse=AI_SDK.refuse))
    if AGENTCORE in dialects:
        routes.append(Route("/ping", plain(Ping(turns).answer), PUBLIC, refuse=AGENTCORE.refuse))
    return routes


def _turn(path: str, dialect: Dialect, invoke: InvokeRoute) -> Route:
    return Route(path, partial(_take_turn, dialect, invoke), TURNS, ("POST",), refuse=dialect.refuse)


async def _take_turn(dialect: Dialect, invoke: InvokeRoute, asked: Asked) -> web.StreamResponse:
    return await invoke.plain(dialect, asked.request, asked.headers, asked.record, asked.caller)


async def _reconnect(runs: RunRoutes, turns: TurnService, asked: Asked) -> web.StreamResponse:
    """The stream of a chat's turn from its beginning, for a page that was loaded again; 204: it has none."""
    chat = session_id(unquote(asked.at[0]), "the id of the chat")
    run = turns.ledger.newest(chat, AI_SDK.wire)
    if run is None:
        return web.Response(status=204, headers=asked.headers)
    return await runs.follow(run, -1, asked.request, asked.headers)


class Ping:
    """GET /ping: the state of the instance for AgentCore, which ends an instance that has been `Healthy`,
    without a turn, for some time. The time in the answer is that of the last change."""

    def __init__(self, turns: TurnService) -> None:
        self._turns: Final = turns
        self._status = "Healthy"
        self._since = int(time.time())

    async def answer(self, _: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        status = "HealthyBusy" if self._turns.ledger.open else "Healthy"
        if status != self._status:
            self._status, self._since = status, int(time.time())
        return json_response({"status": status, "time_of_last_update": self._since}, 200, headers)


def _responses(given: ResponseRoutes) -> list[Route]:
    below = RESPONSES.path + "/{response_id}"
    handlers: list[tuple[str, Handler, tuple[str, ...]]] = [
        (
            below,
            lambda asked: given.one(asked.at[0], asked.request, asked.headers),
            ("GET", "HEAD", "DELETE"),
        ),
        (f"{below}/cancel", lambda asked: given.cancel(asked.at[0], asked.headers), ("POST",)),
        (
            f"{below}/input_items",
            lambda asked: given.input_items(asked.at[0], asked.headers),
            ("GET", "HEAD"),
        ),
    ]
    return [
        Route(prefix + path, handler, OF_AN_ID, methods, refuse=RESPONSES.refuse)
        for prefix in ("", DASHSCOPE)
        for path, handler, methods in handlers
    ]
