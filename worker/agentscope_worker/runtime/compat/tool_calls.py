"""Whole tool calls: every call in a history has arguments that are a JSON object, and its result follows it.

A reply that ends while its tool call is streamed or runs leaves a call with incomplete arguments, or without
a result. Model servers such as OpenAI, DashScope and DeepSeek reject every later request with such a history.
Owns the repair of a history, for live messages and for stored ones: block by block, in objects of AgentScope
2.x and in the dicts of 1.x and of states. It does no I/O, and never changes the given objects.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

INTERRUPTED: Final = "<system-reminder>The tool call was interrupted.</system-reminder>"
"""The result of a call that has none."""

_CALLS: Final = ("tool_call", "tool_use")  # the type of a call's block on 2.x and on 1.x
_WAITING: Final = (
    "asking",
    "submitted",
)  # states of a call of 2.x whose result a user or another system gives

Place = tuple[int, int]  # message and block


class Repair:
    """The changes that make the tool calls in the contents of messages whole; a content is a list of blocks.

    A result is in place if only other results are between it and the message of its call.
    """

    def __init__(self, contents: Sequence[Sequence[Any]]) -> None:
        self._contents: Final = contents
        self._arguments: Final[dict[Place, Any]] = {}  # call -> its completed arguments
        self._moved: Final[dict[Place, Place]] = {}  # call -> its result, which is not in place
        self._removed: Final[set[Place]] = set()  # results without a call
        unanswered: dict[str, list[Place]] = {}
        near: set[Place] = set()  # calls for whose result the next block is in place
        for index, blocks in enumerate(contents):
            if not blocks or any(field(block, "type") != "tool_result" for block in blocks):
                near.clear()
            for position, block in enumerate(blocks):
                place, kind, call_id = (index, position), field(block, "type"), str(field(block, "id"))
                if kind in _CALLS:
                    unanswered.setdefault(call_id, []).append(place)
                    near.add(place)
                    self._check_arguments(place, block)
                elif kind == "hint":  # AgentScope sends it as a message of its own
                    near.clear()
                elif kind == "tool_result":
                    calls = unanswered.get(call_id)
                    if not calls:
                        self._removed.add(place)
                    elif (call := calls.pop()) not in near:  # ids may repeat: it is that of the latest call
                        self._moved[call] = place
                        self._removed.add(place)
        self._unanswered: Final = {place for places in unanswered.values() for place in places}

    def _check_arguments(self, place: Place, call: Any) -> None:
        given = field(call, "input")
        whole = whole_arguments(given) if field(call, "type") == "tool_call" else _whole_input(given)
        if whole is not given:
            self._arguments[place] = whole

    def spare_waiting(self) -> None:
        """Add no results to the last message if its agent waits for them: for a permission, for example."""
        last = len(self._contents) - 1
        places = {place for place in self._unanswered if place[0] == last}
        if any(field(self._contents[last][position], "state") in _WAITING for _, position in places):
            self._unanswered.difference_update(places)

    def messages(self) -> set[int]:
        """The indexes of the messages that change."""
        places: Iterable[Place] = (*self._arguments, *self._moved, *self._removed, *self._unanswered)
        return {index for index, _ in places}

    def mend(self, index: int, answer: Callable[[Any], Any]) -> tuple[list[Any], list[Any]]:
        """The new blocks of message `index`, and the missing results for a message after it.

        `answer`: the result block for a call. On 2.x a result belongs to the message of its call, and on 1.x
        to the next message. A message without blocks must be removed.
        """
        mended: list[Any] = []
        missing: list[Any] = []
        is_1x = False
        for position, block in enumerate(self._contents[index]):
            place, kind = (index, position), field(block, "type")
            if place in self._removed:
                continue
            if kind in ("tool_result", "hint") and not is_1x:  # it ends the list of parallel calls
                mended += missing
                missing = []
            if kind == "tool_use":
                is_1x = True
            if place in self._arguments:
                block = replaced(block, input=self._arguments[place])
            if place in self._moved:
                at, moved = self._moved[place]
                missing.append(self._contents[at][moved])
            elif place in self._unanswered:
                missing.append(answer(block))
                if kind == "tool_call":
                    block = replaced(block, state="finished")
            mended.append(block)
        return (mended, missing) if is_1x else (mended + missing, [])


def whole_arguments(text: Any) -> str:
    """`text` if it is a JSON object; else the object that AgentScope reads from it, "{}" for none."""
    try:
        if isinstance(text, str) and isinstance(json.loads(text), dict):
            return text
    except (ValueError, RecursionError):
        pass
    return json.dumps(_repaired(text), ensure_ascii=False)


def mended_state(value: Any) -> Any:
    """A JSON state in which all tool calls are whole; `value` itself if they are.

    Histories are looked for in the dicts that `value` consists of, not in lists.
    """
    if isinstance(value, dict):
        changed = {}
        for key, each in value.items():
            mended = mended_state(each)
            if mended is not each:
                changed[key] = mended
        return {**value, **changed} if changed else value
    if isinstance(value, list) and value and all(_message_in(each) is not None for each in value):
        return _mended_history(value)
    return value


def blocks_of(content: Any) -> Sequence[Any]:
    """The blocks of a message's content, which is a text or a list."""
    return content if isinstance(content, list) else ()


def field(block: Any, name: str) -> Any:
    """A field of a block, which is an object on 2.x and a dict on 1.x and in states."""
    return block.get(name) if isinstance(block, dict) else getattr(block, name, None)


def replaced(block: Any, **fields: Any) -> Any:
    """A copy of a block with these fields."""
    return {**block, **fields} if isinstance(block, dict) else block.model_copy(update=fields)


def result_fields(call: Any) -> dict[str, Any]:
    """The fields that the result of an interrupted call has on both majors."""
    return {
        "type": "tool_result",
        "id": field(call, "id"),
        "name": field(call, "name"),
        "output": INTERRUPTED,
    }


def _whole_input(given: Any) -> Any:
    """The arguments of a call of 1.x, which are an object already."""
    return given if isinstance(given, dict) else _repaired(given)


def _repaired(text: Any) -> dict[str, Any]:
    """The object that AgentScope reads from incomplete arguments."""
    if not isinstance(text, str) or not text.strip():
        return {}
    from json_repair import repair_json  # required by AgentScope, which repairs arguments with the same call

    try:
        repaired = repair_json(text, stream_stable=True, return_objects=True)
    except (ValueError, RecursionError):
        return {}
    return repaired if isinstance(repaired, dict) else {}


def _message_in(item: Any) -> Mapping[str, Any] | None:
    """The message that an item of a stored history is, or that it pairs with its marks as 1.x does.

    Messages in the format of a provider are not meant: they have no name.
    """
    if isinstance(item, list | tuple) and len(item) == 2:
        item = item[0]
    is_message = isinstance(item, dict) and {"name", "role", "content"} <= item.keys()
    return item if is_message else None


def _mended_history(items: list[Any]) -> list[Any]:
    messages = [_message_in(item) or {} for item in items]
    repair = Repair([blocks_of(message["content"]) for message in messages])
    repair.spare_waiting()
    broken = repair.messages()
    if not broken:
        return items
    mended: list[Any] = []
    for index, (item, message) in enumerate(zip(items, messages, strict=True)):
        if index not in broken:
            mended.append(item)
            continue
        content, results = repair.mend(index, _stored_answer)
        if content:
            mended.append(_with_message(item, {**message, "content": content}))
        if results:
            answer = {"name": "system", "role": "system", "content": results, "metadata": None}
            mended.append(_with_message(item, answer))
    return mended


def _stored_answer(call: Mapping[str, Any]) -> dict[str, Any]:
    fields = result_fields(call)
    return fields | {"state": "interrupted"} if call["type"] == "tool_call" else fields


def _with_message(item: Any, message: Mapping[str, Any]) -> Any:
    return [message, item[1]] if isinstance(item, list | tuple) else message
