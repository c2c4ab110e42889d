"""The permission modes that the settings name, and the rule that a tool call may suggest."""

from enum import Enum

from pydantic import BaseModel


class PermissionMode(Enum):
    DEFAULT = "default"
    ACCEPT_EDITS = "accept_edits"
    EXPLORE = "explore"
    BYPASS = "bypass"
    DONT_ASK = "dont_ask"


class PermissionBehavior(Enum):
    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"
    PASSTHROUGH = "passthrough"


class PermissionRule(BaseModel):
    tool_name: str
    rule_content: str | None
    behavior: PermissionBehavior
    source: str
