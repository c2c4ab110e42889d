"""Exit reasons for every kind of evidence, and the records of the last 100 exits."""

import signal
from typing import Any

import pytest

from agentscope_supervisor.workers.exit_reasons import (
    KEPT,
    Cause,
    ExitEvidence,
    ExitReason,
    ExitRecord,
    ExitRecords,
    classify,
)

REPLACED = ExitReason(Cause.ASKED, "replaced")
BLOCKED = ExitReason(Cause.UNRESPONSIVE, "blocking call")


def evidence(status: int, **known: Any) -> ExitEvidence:
    """Return the evidence for a worker that was ready and exited by itself, changed by `known`."""
    name = f"exit {status}" if status >= 0 else signal.Signals(-status).name
    usual: dict[str, Any] = {
        **{"was_ready": True, "retire_reason": None, "kill_reason": None, "failure": "", "oom": False},
        **known,
    }
    return ExitEvidence(status, name, **usual)


def record(slot: int = 0, generation: int = 1, cause: Cause = Cause.SIGNAL) -> ExitRecord:
    reason = ExitReason(cause, "")
    return ExitRecord(slot, generation, 7, 0.0, 2.0, 1.0, "SIGKILL", reason, 0, (), ())


@pytest.mark.parametrize(
    "seen, reason",
    [
        (evidence(3), ExitReason(Cause.EXIT_CODE, "exit 3")),
        (evidence(0), ExitReason(Cause.EXIT_CODE, "exit 0")),
        (evidence(-11), ExitReason(Cause.SIGNAL, "SIGSEGV")),
        (evidence(-9), ExitReason(Cause.SIGNAL, "SIGKILL")),
        (evidence(-9, kill_reason=BLOCKED), BLOCKED),
        (evidence(0, retire_reason=REPLACED), REPLACED),
        (evidence(-15, retire_reason=REPLACED), REPLACED),
        (evidence(-9, retire_reason=REPLACED, kill_reason=REPLACED, was_ready=False), REPLACED),
        (
            evidence(78, was_ready=False, failure="app.py: no\nTraceback"),
            ExitReason(Cause.BOOT_FAILED, "app.py: no"),
        ),
        (evidence(1, was_ready=False), ExitReason(Cause.BOOT_FAILED, "exit 1")),
    ],
)
def test_the_reason_explains_the_status(seen: ExitEvidence, reason: ExitReason) -> None:
    assert classify(seen) == reason


def test_a_foreign_kill_during_an_oom_kill_counts_as_oom() -> None:
    assert classify(evidence(-9, oom=True)).cause is Cause.OOM
    assert classify(evidence(-9, oom=True, was_ready=False)).cause is Cause.OOM
    assert classify(evidence(-9, oom=True, retire_reason=REPLACED)).cause is Cause.OOM
    assert classify(evidence(-9, oom=True, kill_reason=BLOCKED)) == BLOCKED
    assert classify(evidence(-11, oom=True)).cause is Cause.SIGNAL, "a tool was killed, not the worker"


def test_a_crash_before_a_requested_kill_counts_as_a_crash() -> None:
    assert classify(evidence(-11, kill_reason=BLOCKED)) == ExitReason(Cause.SIGNAL, "SIGSEGV")
    assert classify(evidence(2, kill_reason=BLOCKED)) == ExitReason(Cause.EXIT_CODE, "exit 2")


def test_a_retired_worker_that_crashes_counts_as_a_crash() -> None:
    assert classify(evidence(-11, retire_reason=REPLACED)) == ExitReason(Cause.SIGNAL, "SIGSEGV")
    assert classify(evidence(1, retire_reason=REPLACED)) == ExitReason(Cause.EXIT_CODE, "exit 1")
    assert classify(evidence(-9, retire_reason=REPLACED)) == ExitReason(Cause.SIGNAL, "SIGKILL")


def test_a_signal_before_readiness_counts_as_a_signal() -> None:
    assert classify(evidence(-11, was_ready=False, failure="x")) == ExitReason(Cause.SIGNAL, "SIGSEGV")


def test_a_reason_as_text_has_cause_and_detail() -> None:
    assert str(BLOCKED) == "unresponsive (blocking call)"
    assert str(ExitReason(Cause.OOM, "")) == "oom"


def test_the_last_100_records_are_kept_and_all_exits_are_counted() -> None:
    records = ExitRecords()
    for generation in range(KEPT + 5):
        records.add(record(slot=generation % 2, generation=generation))
    records.add(record(cause=Cause.OOM))
    assert len(records) == len(list(records)) == KEPT
    assert next(iter(records)).generation == 6, "the oldest record is dropped first"
    assert records.counts[Cause.SIGNAL] == KEPT + 5
    assert records.counts[Cause.OOM] == 1
    assert records.counts[Cause.ASKED] == 0


def test_last_of_returns_the_last_record_of_a_slot() -> None:
    records = ExitRecords()
    for slot, generation in ((0, 1), (1, 1), (0, 2)):
        records.add(record(slot, generation))
    last = records.last_of(0)
    assert last is not None
    assert [records.failures(slot) for slot in range(3)] == [2, 1, 0]
    assert (last.worker, last.generation) == ("0.2", 2)
    assert records.last_of(2) is None


def test_an_expected_exit_is_not_a_failure_of_its_slot() -> None:
    records = ExitRecords()
    for cause in (Cause.ASKED, Cause.MEMORY_LIMIT, Cause.TURN_LIMIT, Cause.STOP_TIMEOUT):
        records.add(record(cause=cause))
    assert records.failures(0) == 1
