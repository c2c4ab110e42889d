"""An instance as a systemd service: its notifications, received by a socket of the test, and its watchdog."""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from agentscope_supervisor.system.sdnotify import CHECK_EVERY, MAX_STATUS, Notifier
from tests.harness.client import Stream, invoke, new_session, texts
from tests.harness.instance import Instance
from tests.harness.waiting import eventually, wait_until

CONFIG_ERROR: Final = 78

Start = Callable[..., Instance]


class Manager:
    """The receiving end of NOTIFY_SOCKET. `messages`: all messages so far, in order."""

    def __init__(self, address: str) -> None:
        self.variable: Final = address
        self.path: Final = Path(address)
        self._socket: Final = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)
        self._messages: list[dict[str, str]] = []

    @property
    def messages(self) -> list[dict[str, str]]:
        while True:
            try:
                lines = self._socket.recv(65536).decode().splitlines()
            except BlockingIOError:
                return self._messages
            self._messages.append(dict(line.split("=", 1) for line in lines))

    def wait(self, what: str, within: float = 30.0, **expected: str) -> dict[str, str]:
        """Return the next message with these fields, and drop it and all earlier ones."""

        def found() -> dict[str, str] | None:
            for index, message in enumerate(self.messages):
                if expected.items() <= message.items():
                    del self._messages[: index + 1]
                    return message
            return None

        message = wait_until(found, within, what)
        assert message is not None
        return message

    def wait_status(self, part: str) -> None:
        wait_until(lambda: any(part in m.get("STATUS", "") for m in self.messages), 30, f"status: {part}")

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)


@pytest.fixture
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """A manager whose socket has a path or, with the parameter "@", an abstract address."""
    manager = Manager(f"{getattr(request, 'param', '')}{tmp_path}/notify")
    yield manager
    manager.close()


# -- notifications -----------------------------------------------------------------------------------


@pytest.mark.parametrize("manager", ["", "@"], indirect=True, ids=["path", "abstract"])
async def test_the_manager_is_notified_of_start_reload_and_stop(
    manager: Manager, new_instance: Start, make_project: Callable[..., Path]
) -> None:
    project = make_project(supervisor={"soak": 0, "drain_timeout": 7, "stop_timeout": 2})
    instance = new_instance(project, variables={"NOTIFY_SOCKET": manager.variable}).launch()
    manager.wait("the instance starts", STATUS="starting: 0 of 2 workers, 0 turns")
    ready = manager.wait("the instance is ready", READY="1")
    assert ready["STATUS"] == "1 of 2 workers, 0 turns", "the first worker is enough"
    manager.wait("both workers are ready", STATUS="2 of 2 workers, 0 turns")
    hidden = [{"shell": 'test -z "$NOTIFY_SOCKET$WATCHDOG_USEC$LISTEN_FDS"'}, {"say": "hidden"}]
    assert await texts(instance.port, new_session(), hidden) == ["hidden"]
    async with Stream(instance.port, new_session(), [{"say": "x"}, {"sleep": 60}]) as stream:
        await stream.until(events=1)
        manager.wait("a turn runs", STATUS="2 of 2 workers, 1 turn")
        stream.leave()

    before = time.monotonic_ns() // 1000
    instance.signal(signal.SIGHUP)
    reloading = manager.wait("the reload starts", RELOADING="1")
    assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    manager.wait("the reload has ended", READY="1")
    assert [worker.generation for worker in instance.ready_workers()] == [2, 2]

    (project / "app.py").write_text("raise RuntimeError('half an upload')\n")
    instance.signal(signal.SIGHUP)
    manager.wait("the second reload starts", RELOADING="1")
    failed = manager.wait("the second reload has ended", READY="1")
    assert "2 of 2 workers" in failed["STATUS"]
    assert "the last reload failed: " in failed["STATUS"]
    assert "half an upload" in failed["STATUS"]
    (project / "agentapp.yaml").write_text("server: {prot: 1}\n")
    instance.signal(signal.SIGHUP)
    manager.wait("the third reload starts", RELOADING="1")
    refused = manager.wait("the third reload has ended", READY="1")
    assert "server.prot" in refused["STATUS"]

    instance.signal(signal.SIGTERM)
    stopping = manager.wait("the instance stops", STOPPING="1")
    assert stopping["STATUS"].startswith("draining: ")
    assert 9e6 < int(stopping["EXTEND_TIMEOUT_USEC"]) < 60e6
    assert instance.wait_exit(20) == 0


def test_a_failed_start_reports_its_reason_to_the_manager(
    manager: Manager, new_instance: Start, make_project: Callable[..., Path]
) -> None:
    project = make_project()
    (project / "app.py").write_text("import no_such_module\n")
    instance = new_instance(project, variables={"NOTIFY_SOCKET": manager.variable}).launch()
    assert instance.wait_exit(30) == CONFIG_ERROR
    manager.wait_status("no_such_module")
    assert not any("READY" in message for message in manager.messages)


def test_the_watchdog_is_notified_only_while_the_event_loop_runs(
    manager: Manager, new_instance: Start, make_project: Callable[..., Path]
) -> None:
    variables = {"NOTIFY_SOCKET": manager.variable, "WATCHDOG_USEC": "600000"}
    instance = new_instance(make_project(), workers=1, variables=variables).start()
    for _ in range(5):
        manager.wait("a beat", within=10, WATCHDOG="1")
    instance.signal(signal.SIGSTOP)
    time.sleep(0.1)  # messages that were already sent
    manager.messages.clear()
    time.sleep(1.5)  # the fault itself
    assert manager.messages == []
    instance.signal(signal.SIGCONT)
    for _ in range(5):
        manager.wait("a beat", within=10, WATCHDOG="1")


@pytest.mark.fault("F84")
@pytest.mark.parametrize("kind", ["missing", "vanishes"])
async def test_f84_the_instance_runs_without_a_manager(
    manager: Manager, new_instance: Start, make_project: Callable[..., Path], kind: str
) -> None:
    if kind == "missing":
        manager.close()
    variables = {"NOTIFY_SOCKET": manager.variable, "WATCHDOG_USEC": "100000"}
    instance = new_instance(make_project(supervisor={"soak": 0}), workers=1, variables=variables).start()
    manager.close()
    assert await texts(instance.port, new_session(), "it serves") == ["it serves"]
    instance.signal(signal.SIGHUP)
    await eventually(lambda: "rollout done" in instance.log, 20, "the reload is done")
    assert await texts(instance.port, new_session(), "still") == ["still"]
    assert instance.stop() == 0
    assert instance.log.count("service manager cannot be notified") == 1, "once is enough"


# -- the notifier alone ----------------------------------------------------------------------------------


@pytest.mark.fault("F84")
@pytest.mark.parametrize("value", ["", "garbage", "vsock:2:1", "@", "/" + "x" * 300, "/dev/null", "/tmp"])
async def test_f84_invalid_values_of_notify_socket_are_ignored(value: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": value, "WATCHDOG_USEC": "nonsense"}, 1, lambda: "well")
    notifier.ready()
    notifier.reloading()
    notifier.reloaded()
    notifier.stopping(1.0)
    notifier.close()
    notifier.update()


async def test_a_slow_manager_gets_all_messages_in_order(manager: Manager) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"OTHER=1", str(manager.path))
    notifier = Notifier({"NOTIFY_SOCKET": manager.variable}, 1, lambda: "well\nlined " + "x" * 1000)
    notifier.ready()
    notifier.reloading()
    await eventually(
        lambda: any("RELOADING" in message for message in manager.messages), 5, "all have arrived"
    )
    ours = [message for message in manager.messages if "OTHER" not in message]
    assert [sorted(message) for message in ours] == [["STATUS"], ["READY"], ["MONOTONIC_USEC", "RELOADING"]]
    assert ours[0]["STATUS"].startswith("well lined xxx")
    assert len(ours[0]["STATUS"]) <= MAX_STATUS
    notifier.close()


async def test_the_watchdog_of_another_process_is_not_notified(manager: Manager) -> None:
    variables = {"NOTIFY_SOCKET": manager.variable, "WATCHDOG_USEC": "30000"}
    for pid, beats in (("7", True), ("8", False)):
        notifier = Notifier({**variables, "WATCHDOG_PID": pid}, 7, lambda: str(time.monotonic()))
        await asyncio.sleep(0.2 if beats else 1.5 * CHECK_EVERY)  # at least one check
        assert any("WATCHDOG" in message for message in manager.messages) is beats
        assert manager.messages
        manager.messages.clear()
        notifier.close()


async def test_a_blocked_event_loop_is_not_reported_alive_at_once(manager: Manager) -> None:
    variables = {"NOTIFY_SOCKET": manager.variable, "WATCHDOG_USEC": "300000"}
    notifier = Notifier(variables, 7, lambda: str(time.monotonic()))
    manager.messages.clear()
    time.sleep(1.5)  # noqa: ASYNC251 - the fault itself
    # The check is due in this iteration of the loop: it sends a status and no watchdog message.
    await eventually(lambda: manager.messages, 30, "the check has run")
    assert sorted(manager.messages[0]) == ["STATUS"]
    await eventually(
        lambda: any("WATCHDOG" in message for message in manager.messages),
        5,
        "the watchdog is notified again",
    )
    notifier.close()


async def test_other_signals_have_no_effect(start_instance: Start) -> None:
    instance = start_instance(workers=1)
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
        instance.signal(number)
    await eventually(lambda: instance.log.count("signal ignored") == 2, 30, "both are logged")
    assert (await invoke(instance.port, new_session(), "on it goes")).status == 200
