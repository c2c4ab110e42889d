"""The HTTP contract of Amazon Bedrock AgentCore's runtime: `POST /invocations`. Pure.

Source: https://docs.aws.amazon.com/bedrock-agentcore/latest/devguide/runtime-http-protocol-contract.html
"""

from typing import Any, Final

from agentscope_protocol.wire.frames import Place
from agentscope_supervisor.web.dialects.translated import Found, dialect, format_of, refuse, typed

PATH: Final = "/invocations"

_END: Final = b'id: %b-%b\ndata: {"error":{"code":%b,"message":%b}}\n\n' % (
    Place.RUN,
    Place.NUMBER,
    Place.CODE,
    Place.MESSAGE,
)


def find(fields: dict[str, Any]) -> Found:
    """The fields of a request that the supervisor needs: the payload is the client's own. Raises: Refused."""
    return Found(stream=typed(fields, "stream", bool, False), metadata=fields)


AGENTCORE: Final = dialect(
    "agentcore",
    PATH,
    format_of(6, "agentcore", _END),
    find,
    frozenset({("stream",)}),
    frozenset(),
    refuse,
    metadata=(),
    session_header="x-amzn-bedrock-agentcore-runtime-session-id",
)
