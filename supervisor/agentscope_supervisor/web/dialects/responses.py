"""OpenAI's Responses: `POST /v1/responses`. Pure.

Source: https://platform.openai.com/docs/api-reference/responses
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from agentscope_protocol.wire.frames import Place
from agentscope_supervisor.domain.errors import ErrorCode, Failure, invalid
from agentscope_supervisor.web.dialects import openai
from agentscope_supervisor.web.dialects.translated import Found, dialect, format_of, required, typed

PATH: Final = "/v1/responses"
PREFIX: Final = "resp_"
"""The id of a response is this and the id of its run."""

_HEAD: Final = b'{"id":"resp_%b","object":"response","created_at":%b,"status":%b,"error":%b,' % (
    Place.RUN,
    Place.CREATED,
    Place.STATUS,
    Place.ERROR,
)
_REST: Final[Mapping[str, Any]] = {
    "background": False,
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
    "model": "agent",
    "output": [],
    "parallel_tool_calls": True,
    "temperature": None,
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "usage": None,
}
_RESULT: Final = _HEAD + json.dumps(_REST, separators=(",", ":")).encode().removeprefix(b"{")
_END: Final = b"id: %b-%b\nevent: response.failed\n" % (
    Place.RUN,
    Place.NUMBER,
) + b'data: {"type":"response.failed","sequence_number":%b,"response":%b}\n\n' % (Place.NUMBER, _RESULT)
_CANCELLED: Final = (ErrorCode.INTERRUPTED, ErrorCode.SUPERSEDED)


def status(failure: Failure | None) -> str:
    """The status of a response that has not completed."""
    if failure is None:
        return "in_progress"
    return "cancelled" if failure.code in _CANCELLED else "failed"


def find(fields: dict[str, Any]) -> Found:
    """The fields of a request that the supervisor needs. Raises: Refused."""
    required(fields, "input", str, list)
    conversation = fields.get("conversation")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    if conversation is not None and fields.get("previous_response_id") is not None:
        raise invalid("previous_response_id and conversation must not be given together")
    streams, background = typed(fields, "stream", bool, False), typed(fields, "background", bool, False)
    return Found(
        session=conversation,
        stream=streams,
        metadata=typed(fields, "metadata", dict, {}),
        detached=background,
        at_once=background and not streams,
    )


def follows(fields: dict[str, Any]) -> str | None:
    """The run of the response that a request continues. Raises: Refused."""
    previous = typed(fields, "previous_response_id", str, None)
    return None if previous is None else previous.removeprefix(PREFIX)


RESPONSES: Final = dialect(
    "responses",
    PATH,
    format_of(3, "responses", _END, result=_RESULT, status=status),
    find,
    frozenset(
        {
            *(("metadata",), ("conversation",), ("conversation", "id"), ("previous_response_id",)),
            *(("background",), ("stream",)),
        }
    ),
    frozenset({("input",)}),
    openai.refuse,
    follows=follows,
)
