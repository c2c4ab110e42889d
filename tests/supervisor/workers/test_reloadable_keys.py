"""The keys that a reload applies in the supervisor."""

from typing import Any

import pytest

from agentscope_protocol.config import settings as settings_module
from agentscope_protocol.config.settings import Settings
from agentscope_supervisor.workers.reloadable_keys import READ_HERE, RELOADABLE, needs_restart


def of(**sections: Any) -> Settings:
    return Settings.model_validate(sections)


def test_every_reloadable_key_exists() -> None:
    properties = settings_module.json_schema()["$defs"]
    names = {
        f"{section}.{key}"
        for section in READ_HERE
        for key in properties[f"{section.title()}Settings"]["properties"]
    }
    assert names >= RELOADABLE


@pytest.mark.parametrize(
    "old, new, stale",
    [
        (of(), of(), []),
        (of(), of(models={"main": {"provider": "ollama", "model": "x"}}), []),
        (of(), of(server={"max_turns": 7}, sessions={"on_busy": "reject"}), []),
        (of(), of(server={"port": 1, "max_turns": 7}), ["server.port"]),
        (of(), of(supervisor={"workers": 5, "preload": False}), ["supervisor.preload"]),
        (of(tracing={"endpoint": "http://a/v1/traces"}), of(), ["tracing.endpoint"]),
        (of(), of(tracing={"endpoint": "http://a/v1/traces"}), ["tracing.endpoint"]),
    ],
)
def test_changed_keys_that_need_a_restart_are_returned(
    old: Settings, new: Settings, stale: list[str]
) -> None:
    assert needs_restart(old, new) == stale
