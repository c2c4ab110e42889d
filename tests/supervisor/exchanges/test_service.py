"""The service of exchanges over processes that exist only by number: places, limits, and their end."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from agentscope_protocol.config.settings import Settings
from agentscope_protocol.wire.errors import Code, LocalProtocolError
from agentscope_protocol.wire.frames import CancelReason, Head, StreamKind
from agentscope_supervisor.domain.errors import Refused
from agentscope_supervisor.exchanges.open_exchange import ExchangeListener, OpenExchange
from agentscope_supervisor.exchanges.placement import Key
from agentscope_supervisor.exchanges.service import ExchangeService

ANY = Key("")


class Wire:
    """The link of all exchanges: records cancellations, and has credit while `credit` is set."""

    def __init__(self) -> None:
        self.cancelled: list[tuple[int, CancelReason]] = []
        self.inputs: list[tuple[int, int, bytes]] = []
        self.credit = True

    def can_input(self, stream: int) -> bool:
        return self.credit

    def input(self, stream: int, kind: int, payload: bytes) -> bool:
        self.inputs.append((stream, kind, payload))
        return self.credit

    def consumed(self, stream: int, size: int) -> None: ...

    def cancel(self, stream: int, reason: CancelReason) -> None:
        self.cancelled.append((stream, reason))


class Listener:
    """A client: removes its exchange at the end, as the routes do."""

    def __init__(self, service: ExchangeService) -> None:
        self.service = service
        self.exchange: OpenExchange
        self.restarts = 0

    def head(self, head: Head) -> None: ...

    def message(self, kind: int, payload: bytes) -> None: ...

    def over(self, code: Code | None, message: str) -> None:
        self.service.over(self.exchange)

    def restarting(self) -> None:
        self.restarts += 1


class Setting:
    """A service with processes 10 and 11 in slots 0 and 1."""

    def __init__(self, **sections: Any) -> None:
        slots: dict[int, int | None] = {0: 10, 1: 11}
        self.slots = slots
        ledger = SimpleNamespace(slots=2, assigned=slots.get, on_process=lambda process: 0)
        self.turns: Any = SimpleNamespace(ledger=ledger, maintenance=False)
        settings = Settings.model_validate(sections)
        self.service = ExchangeService(settings, self.turns, lambda event: event())
        self.service.processes = self
        self.wire = Wire()
        self.opened = 0
        self.ended: list[int] = []
        self.too_old = False

    def open_exchange(
        self,
        process: int,
        kind: StreamKind,
        session: str,
        request_id: str,
        head: bytes,
        headers: Mapping[str, str],
        listener: ExchangeListener,
    ) -> OpenExchange:
        if self.too_old:
            raise LocalProtocolError("no worker that serves HTTP")
        self.opened += 1
        exchange = OpenExchange(process, process - 10, f"{process - 10}.1", listener)
        exchange.opened(self.wire, self.opened, lambda: None)
        return exchange

    def drained(self, process: int) -> None:
        self.ended.append(process)

    def begin(self, process: int, kind: StreamKind = StreamKind.HTTP) -> Listener:
        listener = Listener(self.service)
        listener.exchange = self.service.begin(process, kind, "", "r", b"", {}, listener)
        return listener

    async def refused(self) -> str:
        with pytest.raises(Refused) as refused:
            await self.service.place(ANY)
        return refused.value.failure.code


async def test_an_exchange_goes_to_its_slot_or_to_the_least_loaded_process() -> None:
    setting = Setting()
    service = setting.service
    assert await service.place(Key("made")) in (10, 11)
    listener = setting.begin(10)
    assert [await service.place(ANY) for _ in range(4)] == [11] * 4
    service.learn(["made"], listener.exchange)
    service.learn([], listener.exchange)
    assert await service.place(Key("made")) == 10
    listener.exchange.over(None, "")
    assert {await service.place(ANY) for _ in range(4)} == {10, 11}
    assert service.open == service.on_process(10) == 0


async def test_an_exchange_waits_for_its_slot() -> None:
    setting = Setting(supervisor={"start_timeout": 20})
    setting.slots.update({0: None, 1: None})
    waiting = asyncio.ensure_future(setting.service.place(ANY))
    await asyncio.sleep(0)
    setting.slots[1] = 12
    setting.service.assigned()
    setting.service.assigned()
    assert await waiting == 12


async def test_an_exchange_without_a_worker_is_refused_in_time() -> None:
    setting = Setting(supervisor={"start_timeout": 0.01})
    setting.slots.update({0: None, 1: None})
    assert await setting.refused() == "NOT_READY"


async def test_a_worker_that_does_not_serve_exchanges_gets_none() -> None:
    setting = Setting()
    setting.too_old = True
    with pytest.raises(Refused) as refused:
        setting.begin(10)
    assert refused.value.failure.code == "NOT_READY"
    assert setting.service.open == 0


async def test_the_limits_of_the_instance_and_of_a_worker_hold() -> None:
    setting = Setting(server={"max_turns": 3}, supervisor={"max_inflight": 1})
    for process in (10, 11):
        setting.begin(process)
    assert await setting.refused() == "OVERLOADED"
    setting = Setting(server={"max_turns": 1})
    setting.begin(10)
    assert await setting.refused() == "OVERLOADED"
    setting.service.take_over(Settings())
    assert await setting.service.place(ANY) == 11


async def test_no_exchange_begins_in_maintenance_or_at_the_end() -> None:
    setting = Setting()
    setting.turns.maintenance = True
    assert await setting.refused() == "DRAINING"
    setting.turns.maintenance = False
    setting.slots.update({0: None, 1: None})
    waiting = asyncio.ensure_future(setting.refused())
    await asyncio.sleep(0)
    setting.service.drain()
    assert await waiting == "DRAINING"


async def test_a_process_that_leaves_ends_with_its_last_exchange() -> None:
    setting = Setting()
    request, web_socket = setting.begin(10), setting.begin(10, StreamKind.WEBSOCKET)
    setting.service.departs(10)
    setting.service.departs(11)
    assert (request.restarts, web_socket.restarts) == (0, 1)
    web_socket.exchange.over(None, "")
    assert setting.ended == []
    request.exchange.over(Code.APP_ERROR, "no")
    assert setting.ended == [10]


async def test_apps_that_ignore_their_end_do_not_keep_a_process() -> None:
    setting = Setting(server={"request_timeout": 0.01}, sessions={"cancel_grace": 0.01})
    stubborn = setting.begin(10)
    setting.service.departs(10)
    async with asyncio.timeout(10):
        while not setting.ended:  # noqa: ASYNC110 - the service has no event for it
            await asyncio.sleep(0.005)
    assert setting.wire.cancelled == [(1, CancelReason.DRAINING)]
    assert setting.service.open == 0
    stubborn.exchange.over(Code.LINK_LOST, "it has ended")
    assert setting.ended == [10]


async def test_a_report_of_a_worker_is_passed_on() -> None:
    setting, reports = Setting(), []
    assert setting.service.hosted is None
    setting.service.on_hosted = lambda: reports.append(setting.service.hosted)
    setting.service.reports("asgi")
    setting.service.reports("")
    assert reports == ["asgi", ""]


async def test_input_waits_for_credit_and_stops_at_the_end() -> None:
    setting = Setting()
    exchange = setting.begin(10).exchange
    assert await exchange.send(1, b"a")
    setting.wire.credit = False
    waiting = asyncio.ensure_future(exchange.send(1, b"b"))
    await asyncio.sleep(0)
    setting.wire.credit = True
    exchange.writable()
    exchange.writable()
    assert await waiting
    setting.wire.credit = False
    waiting = asyncio.ensure_future(exchange.send(1, b"c"))
    await asyncio.sleep(0)
    exchange.cancel(CancelReason.CLIENT_GONE)
    exchange.cancel(CancelReason.DRAINING)
    assert not await waiting
    exchange.send_last(2, b"")
    assert setting.wire.inputs == [(1, 1, b"a"), (1, 1, b"b")]
    assert exchange.cancelled_for is CancelReason.CLIENT_GONE


async def test_the_input_ends_once() -> None:
    setting = Setting()
    exchange = setting.begin(10).exchange
    for _ in range(2):
        exchange.send_last(2, b"end")
    assert setting.wire.inputs == [(1, 2, b"end")]
    assert not await exchange.send(1, b"more")
