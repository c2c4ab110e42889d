"""The configuration keys that the supervisor itself applies after a successful reload. Pure.

Sections that only workers read, such as models, MCP servers and session store, apply with the new workers. In
the sections that the supervisor reads, the limits and timeouts below are applied. Sockets, stores, exporters
and everything that is built once at startup need a restart.
"""

from typing import Final

from agentscope_protocol.config.settings import Settings

READ_HERE: Final = ("server", "auth", "protocols", "sessions", "supervisor", "platform", "tracing", "reload")
"""Sections that the supervisor reads."""

RELOADABLE: Final = frozenset(
    {
        "auth.tokens",
        "server.max_turns",
        "server.max_turns_per_principal",
        "server.request_timeout",
        "sessions.on_busy",
        "sessions.max_queue",
        "sessions.cancel_grace",
        "sessions.retry_on_crash",
        "sessions.idle_after",
        "reload.include",
        "reload.exclude",
        "supervisor.workers",
        "supervisor.max_inflight",
        "supervisor.start_timeout",
        "supervisor.soak",
        "supervisor.drain_timeout",
        "supervisor.stop_timeout",
        "supervisor.unresponsive_timeout",
        "supervisor.max_memory_mb",
        "supervisor.max_turns",
    }
)


def needs_restart(old: Settings, new: Settings) -> list[str]:
    """Return the changed keys that need a restart of the instance."""
    stale = []
    for section in READ_HERE:
        before, after = getattr(old, section), getattr(new, section)
        if before != after:
            keys = type(before or after).model_fields
            changed = (k for k in keys if getattr(before, k, None) != getattr(after, k, None))
            stale += [f"{section}.{key}" for key in changed if f"{section}.{key}" not in RELOADABLE]
    return stale
