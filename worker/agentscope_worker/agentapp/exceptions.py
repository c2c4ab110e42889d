"""Exceptions that a handler may raise to choose the code of a failed response. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class AppBaseException(Exception):
    """An error whose `code` and `message` reach the client as they are."""

    def __init__(
        self, status: int, code: str, message: str, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = dict(details or {})

    def __str__(self) -> str:
        return f"[{self.status}] {self.code}: {self.message}"

    def to_dict(self) -> dict[str, Any]:
        return {"status": self.status, "code": self.code, "message": self.message, "details": self.details}


class AgentRuntimeErrorException(AppBaseException):
    """An error of the agent."""

    def __init__(self, code: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(422, code, message, details)


class UnknownAgentException(AgentRuntimeErrorException):
    """Any other exception of a handler, as it reaches the client."""

    def __init__(
        self, original_exception: BaseException | None = None, details: Mapping[str, Any] | None = None
    ) -> None:
        cause = original_exception
        reason = "" if cause is None else f": {type(cause).__name__}: {cause}"
        super().__init__("AGENT_UNKNOWN_ERROR", f"Unknown agent error{reason}", details)
