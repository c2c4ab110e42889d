"""Error codes: the numbers are part of the wire format, and `begun` decides whether a turn may be retried."""

import pytest

from agentscope_protocol.wire.errors import Code, LocalProtocolError, ProtocolError, RemoteProtocolError


def test_codes_keep_their_numbers() -> None:
    assert {code.name: int(code) for code in Code} == {
        "APP_ERROR": 1,
        "CANCELLED": 2,
        "OVERLOADED": 3,
        "DRAINING": 4,
        "LINK_LOST": 5,
        "PROTOCOL": 6,
        "BAD_MESSAGE": 7,
        "UNSENT": 8,
    }


@pytest.mark.parametrize("code", Code)
def test_a_turn_has_begun_unless_the_app_cannot_have_received_it(code: Code) -> None:
    unseen = {Code.OVERLOADED, Code.DRAINING, Code.BAD_MESSAGE, Code.UNSENT}
    assert code.begun is (code not in unseen)


def test_local_and_remote_errors_are_separate_classes() -> None:
    assert issubclass(LocalProtocolError, ProtocolError)
    assert issubclass(RemoteProtocolError, ProtocolError)
    assert not issubclass(LocalProtocolError, RemoteProtocolError)
    assert not issubclass(RemoteProtocolError, LocalProtocolError)
