"""`POST /process` of agentscope-runtime 1.1. Pure."""

from typing import Any, Final

from agentscope_protocol.wire.frames import Place
from agentscope_supervisor.web.dialects.translated import (
    Found,
    dialect,
    format_of,
    refuse,
    required,
    typed,
)

PATH: Final = "/process"

_FAILED: Final = (
    b'"object":"response","status":%b,"error":%b,"id":"response_%b","created_at":%b,"completed_at":null,'
    b'"output":null,"usage":null}' % (Place.STATUS, Place.ERROR, Place.RUN, Place.CREATED)
)
_END: Final = b'data: {"sequence_number":%b,%b\n\n' % (Place.NUMBER, _FAILED)


def find(fields: dict[str, Any]) -> Found:
    """The fields of a request that the supervisor needs. Raises: Refused."""
    required(fields, "input", list)
    user = fields.get("user_id")
    caller = {} if user is None else {"user_id": user}
    return Found(
        session=fields.get("session_id"),
        stream=typed(fields, "stream", bool, True),
        metadata={**typed(fields, "metadata", dict, {}), **caller},
    )


PROCESS: Final = dialect(
    "process",
    PATH,
    format_of(1, "process", _END, result=b"{%b" % _FAILED, waiting="created"),
    find,
    frozenset({("session_id",), ("user_id",), ("metadata",), ("stream",)}),
    frozenset({("input",)}),
    refuse,
)
