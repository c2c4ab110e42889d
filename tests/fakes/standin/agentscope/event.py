"""The events of an agent's reply; no agent here has any."""

from enum import StrEnum


class EventType(StrEnum):
    REPLY_START = "REPLY_START"
    TEXT_BLOCK_DELTA = "TEXT_BLOCK_DELTA"
    THINKING_BLOCK_DELTA = "THINKING_BLOCK_DELTA"
    TOOL_CALL_END = "TOOL_CALL_END"
    TOOL_RESULT_END = "TOOL_RESULT_END"
    DATA_BLOCK_END = "DATA_BLOCK_END"


class UserInterruptEvent:
    """Named by the worker; never made here."""
