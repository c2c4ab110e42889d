"""The supervisor's table of dialects and the worker's have the same numbers."""

from agentscope_supervisor.web.dialects import DIALECTS, FORMATS
from agentscope_worker import dialects


def test_both_tables_have_the_same_dialects() -> None:
    assert FORMATS.keys() == dialects.DIALECTS.keys()


def test_numbers_and_paths_are_unique() -> None:
    assert len({each.wire.number for each in DIALECTS}) == len(DIALECTS)
    assert len({(each.path, each.wire.number) for each in DIALECTS}) == len(DIALECTS)
    assert all(0 <= number <= 0xFF_FFFF for number in FORMATS)
