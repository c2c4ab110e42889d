"""The empty toolkit that each project has as `runtime.tools`."""

from typing import Any


class MCPTool:
    """Named by the worker; never made here."""


class Toolkit:
    def __init__(self, **arguments: Any) -> None:
        if arguments:
            raise NotImplementedError("the stand-in has no tools: mark the test `agentscope`")
        self.tool_groups: list[Any] = []
