"""The dialects: one module for each wire format, and the table of their routes.

A new dialect is one module here with its line in `DIALECTS`, and one in the worker's `dialects`. Read
`native` first.
"""

from collections.abc import Mapping
from typing import Final

from agentscope_supervisor.domain.wire_format import WireFormat
from agentscope_supervisor.web import parse_invoke
from agentscope_supervisor.web.dialects import native
from agentscope_supervisor.web.dialects.chat import CHAT
from agentscope_supervisor.web.dialects.dialect import Dialect
from agentscope_supervisor.web.dialects.responses import RESPONSES

INVOKE: Final = Dialect(native.PATH, native.NATIVE, parse_invoke.read, parse_invoke.outline)

DIALECTS: Final = (INVOKE, CHAT, RESPONSES)

FORMATS: Final[Mapping[int, WireFormat]] = {each.wire.number: each.wire for each in DIALECTS}
"""By the number of the dialect in the Open frame."""
