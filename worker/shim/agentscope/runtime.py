"""The documented API of a project; it lives in agentscope_worker.runtime."""

from agentscope_worker.runtime import AgentApp, SessionContext, runtime

__all__ = ["AgentApp", "SessionContext", "runtime"]
