"""Turns everything that an App may yield into parts of an answer, for all dialects but the native one. Pure.

An App yields Msg chunks that hold new content only; or `(Msg, last)`, as `stream_printing_messages` of
AgentScope 1.x gives them, where each Msg holds all of its content so far; or the events of AgentScope 2.x, as
`agent.reply_stream` gives them; or strings; or content blocks, as dicts or objects. A turn may mix them.
Events, blocks and messages are recognized by their fields, so that this module does not import AgentScope.

Where to read next: `parts` has what comes out, `encoder` what becomes of it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import orjson

from agentscope_worker.dialects import parts
from agentscope_worker.dialects.parts import Part

_TEXTS: Final[Mapping[str, str]] = {"text": "text", "thinking": "thinking"}
"""The blocks that are streamed in pieces, and their field."""
_MEDIA: Final = frozenset({"image", "audio", "video", "data"})
_CALLS: Final = frozenset({"tool_use", "tool_call"})  # on 1.x and 2.x
_FAILED: Final = frozenset({"error", "denied", "interrupted"})  # states of a tool result on 2.x


class NotMsg(TypeError):
    """The App has yielded something else than a Msg."""


class Source:
    """The items of one turn. `name`: of the run; keys of texts begin with it."""

    def __init__(self, name: str) -> None:
        self._name: Final = name
        self._keys = 0
        self._open: tuple[str, str, str] | None = None  # key, type of block and speaker of the last text
        self._seen: Final[dict[str, str]] = {}  # content of blocks that come whole each time
        self._called: Final[dict[str, str]] = {}  # names of tools, by the id of the call
        self._pieces: Final[dict[str, list[str]]] = {}  # of arguments and results that come as events

    def take(self, item: Any) -> Iterator[Part]:
        """The parts of one item. Raises: TypeError when the App has yielded something else."""
        if isinstance(item, str):
            yield from self._text("text", "", item)
        elif isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], bool):
            yield from self._whole(item[0], item[1])
        elif _field(item, "role") is not None and _field(item, "content") is not None:
            yield from self._chunk(item)
        else:
            kind = _field(item, "type")
            event = _EVENTS.get(kind) if isinstance(kind, str) else None
            if event is not None:
                yield from event(self, item)
            elif isinstance(kind, str) and (kind in _BLOCKS or kind in _IGNORED):
                yield from self._block("", item)
            elif isinstance(item, dict) and isinstance(item.get("text"), str):
                yield from self._text("text", "", item["text"])
            else:
                raise TypeError(
                    f"the App yielded a {type(item).__name__}; expected agentscope.message.Msg, such as "
                    'Msg(name="assistant", content=text, role="assistant"), an event of AgentScope 2.x, '
                    "or text"
                )

    def tool(self, call: str) -> str:
        """The name of the tool of a call."""
        return self._called.get(call, "")

    # -- chunks: each holds what is new -------------------------------------------------------------

    def _chunk(self, msg: Any) -> Iterator[Part]:
        speaker = str(_field(msg, "name"))
        metadata = _field(msg, "metadata")
        is_alone = isinstance(metadata, dict) and metadata.get("chunk") is False
        if is_alone:
            yield from self._close()
        content = _field(msg, "content")
        for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            yield from self._block(speaker, block)
        if is_alone:
            yield from self._close()
        yield from self._outcome(msg)

    def _block(self, speaker: str, block: Any) -> Iterator[Part]:
        kind = _field(block, "type")
        if kind in _TEXTS:
            yield from self._text(kind, speaker, _field(block, _TEXTS[kind]) or "")
        elif kind in _CALLS:
            yield from self._close()
            call, arguments = str(_field(block, "id")), _arguments(block)
            yield self._call(call, str(_field(block, "name")))
            yield parts.Arguments(call, arguments)
            yield parts.Called(call, arguments)
        elif kind == "tool_result":
            yield from self._close()
            yield _result(block)
        elif kind in _MEDIA:
            yield from self._close()
            yield from self._media(block)

    def _text(self, kind: str, speaker: str, text: str) -> Iterator[Part]:
        if self._open is None or self._open[1:] != (kind, speaker):
            yield from self._close()
            self._open = (self._key(), kind, speaker)
        if text:
            yield _piece(kind, self._open[0], text)

    def _close(self) -> Iterator[Part]:
        last, self._open = self._open, None
        if last is not None:
            yield parts.Ended(last[0])

    # -- (Msg, last): each holds everything so far -----------------------------------------------------

    def _whole(self, msg: Any, is_last: bool) -> Iterator[Part]:
        yield from self._close()
        content = _field(msg, "content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        growing = [block for block in blocks if _field(block, "type") in _TEXTS]
        for number, block in enumerate(blocks):
            kind = _field(block, "type")
            key = f"{_field(msg, 'id')}-{number}"
            if kind in _TEXTS:
                yield from self._grown(kind, key, _field(block, _TEXTS[kind]) or "")
                if is_last or block is not growing[-1] or number < len(blocks) - 1:
                    yield from self._ended(key)
            elif is_last and key not in self._seen:
                self._seen[key] = ""
                yield from self._block("", block)
        if is_last:
            yield from self._outcome(msg)

    def _grown(self, kind: str, key: str, text: str) -> Iterator[Part]:
        before = self._seen.get(key)
        if before is None:
            self._pieces[key] = []
        elif key not in self._pieces:  # it has ended
            return
        new = text[len(before) :] if before is not None and text.startswith(before) else text
        self._seen[key] = text
        if new:
            yield _piece(kind, key, new)

    def _ended(self, key: str) -> Iterator[Part]:
        if self._pieces.pop(key, None) is not None:
            yield parts.Ended(key)

    # -- events of 2.x ------------------------------------------------------------------------------------

    def _delta(self, event: Any) -> Iterator[Part]:
        yield from self._close()
        kind = "text" if str(event.type).startswith("TEXT") else "thinking"
        self._pieces.setdefault(event.block_id, [])
        if event.delta:
            yield _piece(kind, event.block_id, event.delta)

    def _block_ended(self, event: Any) -> Iterator[Part]:
        yield from self._ended(event.block_id)

    def _media_delta(self, event: Any) -> Iterator[Part]:
        if event.url is not None:
            yield parts.Media(event.block_id, event.media_type, str(event.url))
        else:
            self._pieces.setdefault(event.block_id, [event.media_type]).append(event.data)

    def _media_ended(self, event: Any) -> Iterator[Part]:
        media_type, *data = self._pieces.pop(event.block_id, [""])
        if data:
            yield parts.Media(event.block_id, media_type, f"data:{media_type};base64,{''.join(data)}")

    def _call_begins(self, event: Any) -> Iterator[Part]:
        yield from self._close()
        self._pieces[event.tool_call_id] = []
        yield self._call(event.tool_call_id, event.tool_call_name)

    def _call_delta(self, event: Any) -> Iterator[Part]:
        self._pieces.setdefault(event.tool_call_id, []).append(event.delta)
        yield parts.Arguments(event.tool_call_id, event.delta)

    def _call_ended(self, event: Any) -> Iterator[Part]:
        arguments = "".join(self._pieces.pop(event.tool_call_id, ()))
        yield parts.Called(event.tool_call_id, arguments or "{}")

    def _result_delta(self, event: Any) -> Iterator[Part]:
        self._pieces.setdefault(f"result {event.tool_call_id}", []).append(event.delta)
        yield from ()

    def _result_ended(self, event: Any) -> Iterator[Part]:
        call = event.tool_call_id
        output = "".join(self._pieces.pop(f"result {call}", ()))
        state = str(_field(event, "state"))
        yield parts.Result(call, self.tool(call), output, state in _FAILED)

    def _model_ended(self, event: Any) -> Iterator[Part]:
        yield parts.Usage(event.input_tokens, event.output_tokens)

    def _reply_ended(self, event: Any) -> Iterator[Part]:
        yield from self._outcome(event)

    def _nothing(self, _event: Any) -> Iterator[Part]:
        yield from ()

    # -- shared -------------------------------------------------------------------------------------------

    def _key(self) -> str:
        self._keys += 1
        return f"{self._name}-{self._keys}"

    def _call(self, call: str, name: str) -> Part:
        self._called[call] = name
        return parts.Call(call, name)

    def _media(self, block: Any) -> Iterator[Part]:
        source = _field(block, "source")
        media_type = _field(source, "media_type") or _MEDIA_TYPES.get(_field(block, "type"), "")
        data = _field(source, "data")
        url = f"data:{media_type};base64,{data}" if data else str(_field(source, "url"))
        yield parts.Media(self._key(), media_type, url)

    @staticmethod
    def _outcome(holder: Any) -> Iterator[Part]:
        """The usage and the error of a message; on 1.x, messages have neither."""
        usage, error = _field(holder, "usage"), _field(holder, "error")
        if usage is not None:
            yield parts.Usage(_field(usage, "input_tokens") or 0, _field(usage, "output_tokens") or 0)
        if error is not None:
            yield parts.Error(str(_field(error, "message") or error))


_MEDIA_TYPES: Final[Mapping[Any, str]] = {"image": "image/*", "audio": "audio/*", "video": "video/*"}
_BLOCKS: Final = _TEXTS.keys() | _CALLS | _MEDIA | {"tool_result"}
_IGNORED: Final = frozenset({"hint"})  # for the model, not for the client

_EVENTS: Final[Mapping[str, Callable[[Source, Any], Iterator[Part]]]] = {
    "TEXT_BLOCK_DELTA": Source._delta,
    "TEXT_BLOCK_END": Source._block_ended,
    "THINKING_BLOCK_DELTA": Source._delta,
    "THINKING_BLOCK_END": Source._block_ended,
    "DATA_BLOCK_DELTA": Source._media_delta,
    "DATA_BLOCK_END": Source._media_ended,
    "TOOL_CALL_START": Source._call_begins,
    "TOOL_CALL_DELTA": Source._call_delta,
    "TOOL_CALL_END": Source._call_ended,
    "TOOL_RESULT_TEXT_DELTA": Source._result_delta,
    "TOOL_RESULT_END": Source._result_ended,
    "MODEL_CALL_END": Source._model_ended,
    "REPLY_END": Source._reply_ended,
    **dict.fromkeys(
        (
            *("REPLY_START", "MODEL_CALL_START", "TEXT_BLOCK_START", "THINKING_BLOCK_START", "HINT_BLOCK"),
            *("DATA_BLOCK_START", "TOOL_RESULT_START", "TOOL_RESULT_DATA_DELTA", "EXCEED_MAX_ITERS"),
            *("REQUIRE_USER_CONFIRM", "REQUIRE_EXTERNAL_EXECUTION", "USER_CONFIRM_RESULT", "USER_INTERRUPT"),
            *("EXTERNAL_EXECUTION_RESULT", "CUSTOM"),
        ),
        Source._nothing,
    ),
}


def _field(holder: Any, name: str) -> Any:
    """A field of an object or a dict; None: it has none."""
    return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)


def _piece(kind: str, key: str, text: str) -> Part:
    return parts.Text(key, text) if kind == "text" else parts.Thinking(key, text)


def _arguments(block: Any) -> str:
    given = _field(block, "input")
    return given if isinstance(given, str) else orjson.dumps(given or {}, default=str).decode()


def _result(block: Any) -> Part:
    state = str(_field(block, "state"))
    name, output = str(_field(block, "name")), _output(_field(block, "output"))
    return parts.Result(str(_field(block, "id")), name, output, state in _FAILED)


def _output(output: Any) -> str:
    """The output of a tool: its text, or if it has other blocks, all of it as JSON."""
    if isinstance(output, str):
        return output
    if isinstance(output, list) and all(_field(block, "type") == "text" for block in output):
        return "".join(_field(block, "text") or "" for block in output)
    return orjson.dumps(output, default=_plain).decode()


def _plain(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if dump is not None else str(value)
