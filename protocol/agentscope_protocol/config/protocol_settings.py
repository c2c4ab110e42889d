"""The section `protocols` of agentapp.yaml: the protocols of clients, beside `POST /invoke`. Pure.

Read next: `settings`, which has the file as a whole.
"""

from pydantic import Field

from agentscope_protocol.config.setting_types import Section


class ProtocolsSettings(Section):
    """`protocols`: the protocols of clients, beside `POST /invoke`."""

    responses: bool = Field(True, description="OpenAI's Responses: `POST /v1/responses`.")
    chat: bool = Field(
        True, description="OpenAI's Chat Completions: `POST /v1/chat/completions` and `GET /v1/models`."
    )
