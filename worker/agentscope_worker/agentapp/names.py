"""The module names of agentscope-runtime, and the names in them: which module of this room has each. Pure."""

from __future__ import annotations

from typing import Final

ROOT: Final = "agentscope_runtime"
_ENGINE: Final = f"{ROOT}.engine"
_APP: Final = f"{_ENGINE}.app.agent_app"  # other modules have the name by it: a worker watches its import
_DEPLOYERS: Final = f"{_ENGINE}.deployers"
_SERVICES: Final = f"{_DEPLOYERS}.utils.service_utils"

_INTERRUPTS: Final = {
    "interrupts": "BaseInterruptBackend InterruptSignal TaskState LocalInterruptBackend",
    "redis_interrupts": "RedisInterruptBackend",
    "running": "InterruptMixin",
}
_SCHEMAS: Final = {
    "schemas": "AgentRequest AgentResponse AgentContent AgentRole AudioContent BaseRequest BaseResponse "
    "Content ContentType DataContent Error Event FileContent FunctionCall FunctionCallOutput "
    "FunctionParameters FunctionTool ImageContent McpCall McpCallOutput Message MessageType "
    "RefusalContent Role RunStatus SequenceNumberGenerator TextContent Tool ToolCall ToolCallOutput "
    "VideoContent"
}
_EXCEPTIONS: Final = {"exceptions": "AppBaseException AgentRuntimeErrorException UnknownAgentException"}
_CLOUD: Final = (
    "AgentRunDeployManager FCDeployManager K8sConfig KnativeDeployManager KruiseDeployManager "
    "KubernetesDeployManager ModelstudioDeployManager PAIDeployManager"
)
_LOCAL: Final = {"deployers": "DeployManager LocalDeployManager"}
_ALL_DEPLOYERS: Final = {"deployers": f"DeployManager LocalDeployManager {_CLOUD}"}
_A2A: Final = {
    "adapters": "A2ARegistry A2ATransportsProperties AgentCardWithRuntimeConfig NacosRegistry "
    "extract_a2a_config"
}
_AGUI: Final = {"adapters": "AGUIAdaptorConfig", "dialect_adapters": "AGUIDefaultAdapter"}
_RESPONSES: Final = {"dialect_adapters": "ResponseAPIDefaultAdapter"}
_BUILDERS: Final = {"builders": "ContentBuilder MessageBuilder ResponseBuilder"}
_CLIENT: Final = {
    "client": "AgentAPIClientBase HTTPAgentAPIClient create_simple_text_request extract_text_from_event "
    "parse_event_from_json parse_sse_line parse_sse_line_bytes"
}
_TRACING: Final = {"tracing": "TraceType Tracer get_tracer trace"}

NAMES: Final[dict[str, dict[str, str]]] = {
    ROOT: {},
    _ENGINE: {_APP: "AgentApp", "runner": "Runner", **_ALL_DEPLOYERS},
    f"{_ENGINE}.app": {_APP: "AgentApp"},
    _APP: {"app": "AgentApp"},
    f"{_ENGINE}.runner": {"runner": "Runner"},
    f"{_ENGINE}.constant": {"runner": "ALLOWED_FRAMEWORK_TYPES"},
    f"{_ENGINE}.schemas": {},
    f"{_ENGINE}.schemas.agent_schemas": _SCHEMAS,
    f"{_ENGINE}.schemas.exception": _EXCEPTIONS,
    f"{_ENGINE}.helpers": {},
    f"{_ENGINE}.helpers.agent_api_builder": _BUILDERS,
    f"{_ENGINE}.helpers.agent_api_client": _CLIENT,
    f"{_ENGINE}.tracing": _TRACING,
    f"{_ENGINE}.tracing.base": {"tracing": "Tracer"},
    f"{_ENGINE}.tracing.tracing_metric": {"tracing": "TraceType"},
    f"{_ENGINE}.tracing.wrapper": {"tracing": "trace"},
    _DEPLOYERS: _ALL_DEPLOYERS,
    f"{_DEPLOYERS}.base": {"deployers": "DeployManager"},
    f"{_DEPLOYERS}.local_deployer": _LOCAL,
    f"{_DEPLOYERS}.utils": {},
    f"{_DEPLOYERS}.utils.deployment_modes": {"deployers": "DeploymentMode"},
    _SERVICES: {},
    f"{_SERVICES}.interrupt": _INTERRUPTS,
    f"{_SERVICES}.interrupt.base_backend": {"interrupts": "BaseInterruptBackend InterruptSignal TaskState"},
    f"{_SERVICES}.interrupt.local_backend": {"interrupts": "LocalInterruptBackend"},
    f"{_SERVICES}.interrupt.redis_backend": {"redis_interrupts": "RedisInterruptBackend"},
    f"{_SERVICES}.interrupt.interrupt_mixin": {"running": "InterruptMixin"},
    f"{_DEPLOYERS}.adapter": {"dialect_adapters": "AGUIDefaultAdapter ResponseAPIDefaultAdapter"},
    f"{_DEPLOYERS}.adapter.responses": _RESPONSES,
    f"{_DEPLOYERS}.adapter.responses.response_api_protocol_adapter": _RESPONSES,
    f"{_DEPLOYERS}.adapter.protocol_adapter": {"adapters": "ProtocolAdapter"},
    f"{_DEPLOYERS}.adapter.a2a": _A2A,
    f"{_DEPLOYERS}.adapter.a2a.a2a_protocol_adapter": _A2A,
    f"{_DEPLOYERS}.adapter.a2a.a2a_registry": {"adapters": "A2ARegistry A2ATransportsProperties"},
    f"{_DEPLOYERS}.adapter.a2a.nacos_a2a_registry": {"adapters": "NacosRegistry"},
    f"{_DEPLOYERS}.adapter.agui": _AGUI,
    f"{_DEPLOYERS}.adapter.agui.agui_protocol_adapter": _AGUI,
}
"""For each module of agentscope-runtime: the names in it, by the module of this room that has them."""
