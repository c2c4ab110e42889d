"""The wire formats as the worker writes them: one module for each dialect, and their table by number.

A new dialect is one module here, and one in the supervisor's `web.dialects`. Read `native` first.
"""

from collections.abc import Mapping
from typing import Final

from agentscope_worker.dialects.a2a import A2A_03, A2A_10
from agentscope_worker.dialects.ag_ui import AG_UI
from agentscope_worker.dialects.agentcore import AGENTCORE
from agentscope_worker.dialects.ai_sdk import AI_SDK
from agentscope_worker.dialects.chat import CHAT
from agentscope_worker.dialects.dialect import Dialect
from agentscope_worker.dialects.encoder import Translated
from agentscope_worker.dialects.native import NATIVE
from agentscope_worker.dialects.process import PROCESS
from agentscope_worker.dialects.responses import RESPONSES

DIALECTS: Final[Mapping[int, Dialect | Translated]] = {
    each.number: each for each in (NATIVE, PROCESS, CHAT, RESPONSES, AG_UI, AI_SDK, AGENTCORE, A2A_03, A2A_10)
}
"""By the number of the dialect in the Open frame."""
