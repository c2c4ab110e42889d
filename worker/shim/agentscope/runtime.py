"""The documented API of a project, re-exported from agentscope_worker.runtime."""

from agentscope_worker.runtime import AgentApp, SessionContext, runtime

__all__ = ["AgentApp", "SessionContext", "runtime"]
