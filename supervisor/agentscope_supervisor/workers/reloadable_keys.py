"""Which keys of a new file the supervisor itself takes over when a reload has succeeded. Pure.

What only workers read, models, MCP servers, session store and the rest, comes with the new workers. Of the
sections that the supervisor reads, the bounds and times below are taken over; sockets, stores, exporters and
what is built from the others once are not.
"""

from typing import Final

from agentscope_protocol.config.settings import Settings

READ_HERE: Final = ("server", "sessions", "supervisor", "platform", "tracing")
"""Sections that the supervisor reads."""

TAKEN_OVER: Final = frozenset(
    {
        "server.max_turns",
        "server.max_turns_per_principal",
        "server.request_timeout",
        "sessions.on_busy",
        "sessions.max_queue",
        "sessions.cancel_grace",
        "sessions.retry_on_crash",
        "sessions.idle_after",
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
    """The keys that differ and are not taken over."""
    stale = []
    for section in READ_HERE:
        before, after = getattr(old, section), getattr(new, section)
        if before != after:
            keys = type(before or after).model_fields
            changed = (k for k in keys if getattr(before, k, None) != getattr(after, k, None))
            stale += [f"{section}.{key}" for key in changed if f"{section}.{key}" not in TAKEN_OVER]
    return stale
