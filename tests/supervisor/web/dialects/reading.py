"""Reads requests of a dialect as the front door does, small and large ones."""

import json
from typing import Any

import pytest

from agentscope_supervisor.domain.errors import Refused
from agentscope_supervisor.domain.json_outline import Outline
from agentscope_supervisor.domain.request import MAX_PARSED, TurnRequest
from agentscope_supervisor.web.dialects.dialect import Dialect


def read(
    dialect: Dialect, fields: object, *, session: str | None = None, key: str | None = None, **options: Any
) -> TurnRequest:
    body = json.dumps(fields).encode()
    outline: Outline | None = None
    if len(body) > MAX_PARSED:
        outline = dialect.outline(body, options.get("principal", "token"), digests=key is not None)
        while not outline.step():
            pass
    return dialect.read(
        body,
        dialect.wire,
        header_session=session,
        accepts_json=True,
        token="t0k3n",
        principal=options.get("principal", "token"),
        headers={},
        idempotency_key=key,
        outline=outline,
    )


def refused(dialect: Dialect, fields: object, **options: Any) -> str:
    with pytest.raises(Refused) as caught:
        read(dialect, fields, **options)
    assert caught.value.failure.status == 400
    return caught.value.failure.message
