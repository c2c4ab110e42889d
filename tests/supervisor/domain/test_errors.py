"""Codes and statuses of the HTTP contract, and what a worker's word becomes."""

import pytest

from agentscope_protocol.wire.errors import Code
from agentscope_supervisor.domain.errors import RETRY_LATER, STATUS, ErrorCode, Failure, of_worker, refusal

CONTRACT = {
    400: {ErrorCode.INVALID_REQUEST},
    401: {ErrorCode.UNAUTHORIZED},
    403: {ErrorCode.FORBIDDEN},  # of the console, of which the contract has no codes
    404: {ErrorCode.NOT_FOUND},
    405: {ErrorCode.METHOD_NOT_ALLOWED},
    408: {ErrorCode.REQUEST_TIMEOUT},
    409: {ErrorCode.SESSION_BUSY, ErrorCode.SUPERSEDED, ErrorCode.INTERRUPTED},
    410: {ErrorCode.GONE},
    413: {ErrorCode.PAYLOAD_TOO_LARGE},
    415: {ErrorCode.UNSUPPORTED_MEDIA_TYPE},
    422: {ErrorCode.IDEMPOTENCY_MISMATCH, ErrorCode.POISONED},
    429: {ErrorCode.TOO_MANY_REQUESTS},
    500: {ErrorCode.APP_ERROR, ErrorCode.INTERNAL_ERROR},
    502: {ErrorCode.WORKER_LOST},
    503: {ErrorCode.NOT_READY, ErrorCode.OVERLOADED, ErrorCode.DRAINING},
    504: {ErrorCode.TIMEOUT},
}
WORKERS_WORD = {
    Code.APP_ERROR: (ErrorCode.APP_ERROR, False),
    # What is left for this table: a worker that ends a turn without having been asked.
    Code.CANCELLED: (ErrorCode.WORKER_LOST, False),
    Code.OVERLOADED: (ErrorCode.OVERLOADED, True),
    Code.DRAINING: (ErrorCode.DRAINING, True),
    Code.LINK_LOST: (ErrorCode.WORKER_LOST, False),
    Code.PROTOCOL: (ErrorCode.INTERNAL_ERROR, False),
    # The App has not seen it, but the same message will be refused again.
    Code.BAD_MESSAGE: (ErrorCode.INVALID_REQUEST, False),
    Code.UNSENT: (ErrorCode.WORKER_LOST, True),
}


@pytest.mark.parametrize("code", ErrorCode)
def test_each_code_has_the_status_of_the_contract(code: ErrorCode) -> None:
    (status,) = [status for status, codes in CONTRACT.items() if code in codes]
    assert STATUS[code] == Failure(code, "").status == status


@pytest.mark.parametrize("code", ErrorCode)
def test_a_code_is_its_own_name_to_clients(code: ErrorCode) -> None:
    assert code == code.name


@pytest.mark.parametrize("code", Code)
def test_each_word_of_a_worker_has_its_code(code: Code) -> None:
    told, retryable = WORKERS_WORD[code]
    failure = of_worker(code, "the worker's text")
    assert (failure.code, failure.retryable) == (told, retryable)
    lost = told is ErrorCode.WORKER_LOST
    assert failure.message == ("the worker died under the turn" if lost else "the worker's text")


@pytest.mark.parametrize("code", ErrorCode)
def test_a_refusal_may_be_retried_where_waiting_can_help(code: ErrorCode) -> None:
    helps = {"TOO_MANY_REQUESTS", "NOT_READY", "OVERLOADED", "DRAINING", "SESSION_BUSY"}
    assert refusal(code, "why") == Failure(code, "why", retryable=code in helps)


def test_codes_that_carry_retry_after() -> None:
    assert {code.name for code in RETRY_LATER} == {"TOO_MANY_REQUESTS", "NOT_READY", "OVERLOADED", "DRAINING"}


def test_the_status_that_balancers_retry_means_that_no_app_has_seen_the_turn() -> None:
    """The shipped balancer files send a request that was answered 503 to another instance."""
    assert {code for code, status in STATUS.items() if status == 503} <= RETRY_LATER
