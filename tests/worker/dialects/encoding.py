"""Drives an encoder as the translator does, and reads its events as a client does."""

import json
from collections.abc import Iterable
from typing import Any, Final

from agentscope_protocol.wire.frames import Place
from agentscope_worker.dialects.encoder import Encoder, Request, Translated
from agentscope_worker.dialects.parts import (
    Arguments,
    Call,
    Called,
    Ended,
    Media,
    Part,
    Result,
    Text,
    Thinking,
    Usage,
)

RUN: Final = "a" * 32
NOW: Final = 1_700_000_000

TEXT: Final = (Text("t1", "Hel"), Text("t1", "lo"))
ALL: Final[tuple[Part, ...]] = (
    Thinking("t0", "hm"),
    Ended("t0"),
    *TEXT,
    Ended("t1"),
    Call("c1", "look"),
    Arguments("c1", '{"at":'),
    Arguments("c1", "1}"),
    Called("c1", '{"at":1}'),
    Result("c1", "look", "42"),
    Media("m1", "image/png", "data:image/png;base64,AA=="),
    Text("t2", "done"),
    Usage(7, 3),
)
"""Every kind of part; the last text is not ended."""


class Encoded:
    """One answer. `events`: (name, data) of each; data is JSON, or text if it is none."""

    def __init__(
        self,
        dialect: Translated,
        fields: dict[str, Any],
        parts: Iterable[Part] = TEXT,
        finish_reason: str | None = None,
    ) -> None:
        encoder = dialect.encoder(Request(RUN, "s", fields, NOW))
        raw = encoder.begin()
        self.will = encoder.will()
        for part in parts:
            raw += encoder.part(part)
        raw += encoder.close() + encoder.end(finish_reason)
        self.raw: Final = raw
        self.result: Final[Any] = json.loads(encoder.result())
        self.encoder: Final[Encoder] = encoder
        self.events: Final = [parsed(event, number) for number, event in enumerate(raw)]

    @property
    def data(self) -> list[Any]:
        return [data for _, data in self.events]

    def last_events(self, status: str = "failed") -> list[tuple[str, Any]]:
        """The events of the will, filled in."""
        filled = self.filled(self.will.end, status)
        return [parsed(event + b"\n\n", 9) for event in filled.split(b"\n\n")[:-1]]

    def failed_result(self, status: str = "failed") -> Any:
        return json.loads(self.filled(self.will.result, status))

    @staticmethod
    def filled(template: bytes, status: str) -> bytes:
        fields = {
            Place.CODE: b'"CODE"',
            Place.MESSAGE: b'"message"',
            Place.NUMBER: b"9",
            Place.STATUS: json.dumps(status).encode(),
            Place.ERROR: b'{"code":"CODE","message":"message"}',
            Place.RUN: RUN.encode(),
        }
        for place, text in fields.items():
            template = template.replace(place, text)
        return template


def parsed(event: bytes, number: int) -> tuple[str, Any]:
    """The name and the data of one event, which has the expected number, if it has any."""
    text = event.decode()
    assert text.index("\n\n") == len(text) - 2
    fields = dict(line.split(": ", 1) for line in text[:-2].split("\n"))
    assert fields.get("id", f"{RUN}-{number}") == f"{RUN}-{number}"
    data = fields["data"]
    return fields.get("event", ""), json.loads(data) if data.startswith(("{", '"')) else data
