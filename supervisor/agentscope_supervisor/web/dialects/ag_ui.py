"""AG-UI, the protocol between agents and user interfaces: `POST /ag-ui`. Pure.

Source: https://docs.ag-ui.com/sdk/js/core/types
"""

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

PATH: Final = "/ag-ui"

_END: Final = b'id: %b-%b\ndata: {"type":"RUN_ERROR","message":%b,"code":%b}\n\n' % (
    Place.RUN,
    Place.NUMBER,
    Place.MESSAGE,
    Place.CODE,
)


def find(fields: dict[str, Any]) -> Found:
    """The fields of a request that the supervisor needs. Raises: Refused."""
    required(fields, "messages", list)
    return Found(session=fields.get("threadId"), metadata=typed(fields, "forwardedProps", dict, {}))


AG_UI: Final = dialect(
    "ag_ui",
    PATH,
    format_of(4, "ag_ui", _END),
    find,
    frozenset({("threadId",), ("forwardedProps",)}),
    frozenset({("messages",)}),
    refuse,
    metadata=("forwardedProps",),
)
