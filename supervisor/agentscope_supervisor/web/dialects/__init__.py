"""The dialects: one module for each wire format, and the table of their routes.

A new dialect is one module here with its line in `DIALECTS`, and one in the worker's `dialects`. Read
`native` first.
"""

from collections.abc import Mapping
from typing import Final

from agentscope_supervisor.domain.wire_format import WireFormat
from agentscope_supervisor.web import parse_invoke
from agentscope_supervisor.web.dialects import native
from agentscope_supervisor.web.dialects.a2a import A2A_03, A2A_10
from agentscope_supervisor.web.dialects.ag_ui import AG_UI
from agentscope_supervisor.web.dialects.agentcore import AGENTCORE
from agentscope_supervisor.web.dialects.ai_sdk import AI_SDK
from agentscope_supervisor.web.dialects.chat import CHAT
from agentscope_supervisor.web.dialects.dialect import Dialect
from agentscope_supervisor.web.dialects.process import PROCESS
from agentscope_supervisor.web.dialects.responses import RESPONSES

INVOKE: Final = Dialect(native.PATH, native.NATIVE, parse_invoke.read, parse_invoke.outline)

DIALECTS: Final = (INVOKE, PROCESS, CHAT, RESPONSES, AG_UI, AI_SDK, AGENTCORE, A2A_03, A2A_10)

FORMATS: Final[Mapping[int, WireFormat]] = {each.wire.number: each.wire for each in DIALECTS}
"""By the number of the dialect in the Open frame."""
