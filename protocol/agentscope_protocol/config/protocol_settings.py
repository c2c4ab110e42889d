"""The section `protocols` of agentapp.yaml: the protocols of clients, beside `POST /invoke`. Pure.

Read next: `settings`, which has the file as a whole.
"""

from pydantic import Field

from agentscope_protocol.config.setting_types import AgentCard, Section


class ProtocolsSettings(Section):
    """`protocols`: the protocols of clients, beside `POST /invoke`."""

    a2a: AgentCard = Field(
        {},
        description="A2A 0.3 and 1.0: `POST /a2a` and the agent card. A mapping sets the `name`, "
        "`description` and `version` in the card, and the `url` of an instance behind a proxy.",
    )
    process: bool = Field(True, description="The API of agentscope-runtime: `POST /process`.")
    responses: bool = Field(True, description="OpenAI's Responses: `POST /v1/responses`.")
    chat: bool = Field(
        True, description="OpenAI's Chat Completions: `POST /v1/chat/completions` and `GET /v1/models`."
    )
    ag_ui: bool = Field(True, description="AG-UI: `POST /ag-ui`.")
    ai_sdk: bool = Field(True, description="The UI message stream of the AI SDK: `POST /api/chat`.")
    agentcore: bool = Field(
        False, description="Amazon Bedrock AgentCore: `POST /invocations` and `GET /ping`."
    )
