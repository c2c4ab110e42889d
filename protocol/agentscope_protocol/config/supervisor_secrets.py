"""The secrets of the supervisor, which workers must not know. Pure.

A worker runs the code of the App. The token that clients send and the token of the platform are none of its
business, so they are neither in its environment nor in its snapshot. The keys of models, MCP servers and
session stores are: the App needs them.

Read next: `settings`, which loads the file and makes the snapshot.
"""

import json
from typing import Any
from urllib.parse import urlsplit

from agentscope_protocol.config.problems import SECRET_KEYS, Path
from agentscope_protocol.config.yaml_reader import read

SECTIONS = frozenset({"auth", "platform", "server", "webhooks"})
"""Sections that only the supervisor needs."""

DROPPED = frozenset({"auth", "webhooks"})
"""Sections that a worker does not get at all. From the others only the secrets are removed."""

OPEN_KEYS = frozenset({("platform", "instance_id"), ("server", "host"), ("server", "port")})
"""Keys of these sections whose variables workers keep: an App may read its port or the id of its instance."""


class _AnyValue(dict[str, str]):
    """An environment in which every variable is set."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return ""


def variables(text: str) -> frozenset[str]:
    """The environment variables to withhold from workers, from the text of an agentapp.yaml.

    They are the variables that the sections of the supervisor refer to, without those that are no secret and
    those that another section refers to as well.
    """
    references = read(text, _AnyValue()).references
    return frozenset(name for name, paths in references.items() if all(map(_is_secret, paths)))


def _is_secret(path: Path) -> bool:
    return path[0] in SECTIONS and path not in OPEN_KEYS


def removed(snapshot: bytes) -> bytes:
    """A snapshot of `settings.dump`, without the secrets of the supervisor."""
    document = json.loads(snapshot)
    kept = {name: section for name, section in document.items() if name not in DROPPED}
    for name in SECTIONS & kept.keys():
        kept[name] = _stripped(kept[name])
    return json.dumps(kept).encode()


def _stripped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stripped(item) for key, item in value.items() if key not in SECRET_KEYS}
    if isinstance(value, list):
        return [_stripped(item) for item in value]
    if isinstance(value, str) and "://" in value:
        url = urlsplit(value)  # the user and the query can be credentials
        return url._replace(netloc=url.netloc.rpartition("@")[2], query="", fragment="").geturl()
    return value
