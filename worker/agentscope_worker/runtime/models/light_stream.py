"""Builds the pieces of a model's stream at a fraction of the cost, for `models.<name>.light_stream`.

The clients of OpenAI and Anthropic check the type of each field of each piece. That is most of the CPU time
that a token costs a worker. A piece whose fields have exactly the declared types needs no check, so this
module builds the same object directly: the same class, fields, extra fields and set of given fields. Every
other piece, such as an error or a field with another type, goes to the client's own code.

It owns one hook of the client, `_process_response_data`, and replaces nothing else: requests, retries,
errors, connections and the decoding of events stay the client's. When a slot is built, `lighten` builds
samples both ways and compares them. A client that differs is left alone, with a line in the log.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import logging
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from agentscope_protocol.config.settings import ModelSettings

log = logging.getLogger(__name__)

Build = Callable[[Any], Any]
"""Returns the client's object for a decoded JSON value. Raises: Unusual."""

_SCALARS: Final = (str, int, bool, float)
_set: Final = object.__setattr__  # a pydantic model refuses to set these attributes itself


class Unusual(Exception):
    """A value that does not have the declared type, or a type that this module does not build."""


@dataclass(frozen=True, slots=True)
class _Client:
    """A provider's client: where the type of its stream's pieces is, and pieces to compare."""

    module: str
    name: str
    samples: Sequence[Mapping[str, Any]]


_CHUNK: Final[dict[str, Any]] = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1_700_000_000,
    "model": "sample",
    "unknown": {"nested": [1]},
}
_CALL: Final = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
_USAGE: Final = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def _chunk(delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
    return {**_CHUNK, "choices": [choice]}


# By the top package of the client's class. DashScope's models use OpenAI's client on AgentScope 2.x.
_CLIENTS: Final = {
    "openai": _Client(
        "openai.types.chat",
        "ChatCompletionChunk",
        (
            _chunk({"role": "assistant", "content": ""}),
            _chunk({"content": "text", "reasoning_content": "thought"}),
            _chunk({"tool_calls": [_CALL]}),
            _chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
            _chunk({}, "stop"),
            {**_CHUNK, "choices": [], "usage": {**_USAGE, "prompt_tokens_details": {"cached_tokens": 1}}},
        ),
    ),
    "anthropic": _Client(
        "anthropic.types",
        "RawMessageStreamEvent",
        (
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "text"}},
            {
                "type": "content_block_delta",
                "index": 1,
                "delta": {"type": "input_json_delta", "partial_json": '{"a'},
            },
            {
                "type": "content_block_delta",
                "index": 2,
                "delta": {"type": "thinking_delta", "thinking": "thought", "unknown": 1},
            },
            {"type": "content_block_stop", "index": 0},
            {"type": "message_stop"},
        ),
    ),
}


def lighten(model: Any, slot: str, settings: ModelSettings) -> None:
    """Build the stream pieces of `model` directly, unless the slot's `light_stream` is off.

    Does nothing for a client that this module does not know. Logs if a known client builds other objects.
    """
    client: Any = getattr(model, "client", None)
    package = type(client).__module__.partition(".")[0]
    if settings.light_stream == "off" or package not in _CLIENTS:
        return
    process = getattr(client, "_process_response_data", None)
    if process is None or getattr(client, "_strict_response_validation", False):
        return
    piece = getattr(importlib.import_module(_CLIENTS[package].module), _CLIENTS[package].name)
    build = _verified(package)
    if build is None:
        log.warning(
            "light_stream is off: the client builds its pieces differently",
            extra={"slot": slot, "client": f"{package} {importlib.metadata.version(package)}"},
        )
        return

    def process_response_data(*, data: Any, cast_to: Any, response: Any) -> Any:
        if cast_to is piece:
            try:
                return build(data)
            except Unusual:
                pass
        return process(data=data, cast_to=cast_to, response=response)

    # The clients' own copies, such as `with_options()`, do not have the hook and build as they always did.
    client._process_response_data = process_response_data


@functools.cache
def _verified(package: str) -> Build | None:
    """The builder for the pieces of a client's stream; None if it builds a sample differently."""
    client = _CLIENTS[package]
    piece = getattr(importlib.import_module(client.module), client.name)
    try:
        own = importlib.import_module(f"{package}._models").construct_type
        build = builder(piece)
        same = all(is_same(build(each), own(value=each, type_=piece)) for each in client.samples)
    except (ImportError, AttributeError, TypeError, Unusual):  # another release of the client
        return None
    return build if same else None


def is_same(left: Any, right: Any) -> bool:
    """Whether two objects agree in everything that a reader of them can see."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(is_same, left, right))
    if not (isinstance(left, BaseModel) and isinstance(right, BaseModel)):
        return type(left) is type(right) and left == right
    return (
        type(left) is type(right)
        and left.model_fields_set == right.model_fields_set
        and left.__pydantic_extra__ == right.__pydantic_extra__
        and list(left.__dict__) == list(right.__dict__)
        and all(map(is_same, left.__dict__.values(), right.__dict__.values()))
    )


# --- builders -------------------------------------------------------------------------------------
#
# The clients make an object in one of two ways. They *construct* a field that has one declared type, and take
# any value. They let pydantic *validate* a union, which includes each optional model and what is below it.
# Only validation requires that values are allowed, and counts extra fields among the given ones.


def builder(declared: Any) -> Build:
    """The function that builds objects of a declared type: a model, a union of models, or a list of them.

    Raises: Unusual for another type.
    """
    return _builder(declared, False, {})


def _builder(declared: Any, validated: bool, known: dict[tuple[Any, bool], Build]) -> Build:
    members, is_union = _members(declared)
    validated = validated or is_union
    if len(members) > 1:
        return _one_of([_builder(each, validated, known) for each in members], members)
    [only] = members
    if get_origin(only) is list:
        return _list_of(_builder(get_args(only)[0], validated, known))
    if not (isinstance(only, type) and issubclass(only, BaseModel)):
        raise Unusual
    if (only, validated) not in known:
        known[only, validated] = _model(only, validated, known)
    return known[only, validated]


def _bare(declared: Any) -> Any:
    """A declared type without its annotations."""
    while get_origin(declared) is Annotated:
        declared = get_args(declared)[0]
    return declared


def _is_optional(declared: Any) -> bool:
    """Whether a declared type allows None."""
    return type(None) in get_args(_bare(declared))


def _members(declared: Any) -> tuple[tuple[Any, ...], bool]:
    """The types that a value may have, without None, and whether the declared type is a union."""
    declared = _bare(declared)
    if get_origin(declared) not in (Union, types.UnionType):
        return (declared,), False
    return tuple(each for each in get_args(declared) if each is not type(None)), True


def _scalar(declared: Any) -> tuple[type, frozenset[Any]] | None:
    """The Python type of a field that holds a plain value, and the allowed values, if they are listed."""
    members, _ = _members(declared)
    if len(members) > 1:
        return None
    [only] = members
    if get_origin(only) is Literal:
        allowed = frozenset(get_args(only))
        return (str, allowed) if all(type(each) is str for each in allowed) else None
    return (only, frozenset()) if only in _SCALARS else None


def _list_of(build: Build) -> Build:
    def build_list(values: Any) -> Any:
        if type(values) is not list:
            raise Unusual
        return [build(each) for each in values]

    return build_list


def _one_of(builders: Sequence[Build], members: Sequence[Any]) -> Build:
    """A union whose members have a `type` of their own, such as the events of a stream."""
    by_type: dict[Any, Build] = {}
    for build, member in zip(builders, members, strict=True):
        field = getattr(member, "model_fields", {}).get("type")
        for name in get_args(field.annotation) if field is not None else ():
            by_type[name] = build

    def build_one(value: Any) -> Any:
        name = value.get("type") if type(value) is dict else None
        if type(name) is not str or name not in by_type:
            raise Unusual
        return by_type[name](value)

    return build_one


def _model(model: type[BaseModel], validated: bool, known: dict[tuple[Any, bool], Build]) -> Build:
    """The builder of a model. It treats an object as unusual if a field has a type that is not built here."""
    scalars: dict[str, type] = {}
    allowed: dict[str, frozenset[Any]] = {}  # for scalars with listed values, if the model is validated
    nested: dict[str, Build] = {}
    nullable: set[str] = set()  # fields for which null gives None
    defaults: dict[str, Any] = {}
    aliases: set[str] = set()
    for name, field in model.model_fields.items():
        default = None if field.is_required() else field.default
        if default is not None and type(default) not in _SCALARS:  # a default that is made for each object
            raise Unusual
        defaults[name] = default
        if field.alias not in (None, name):
            aliases.update((name, str(field.alias)))
            continue
        if default is None and (_is_optional(field.annotation) or not validated):
            nullable.add(name)
        scalar = _scalar(field.annotation)
        if scalar is not None:
            scalars[name] = scalar[0]
            if validated and scalar[1]:
                allowed[name] = scalar[1]
            continue
        with contextlib.suppress(Unusual):  # then its values, other than null, are unusual
            nested[name] = _builder(field.annotation, validated, known)
    required = frozenset(name for name, field in model.model_fields.items() if field.is_required())
    new = model.__new__

    def build(values: Any) -> Any:
        if type(values) is not dict:
            raise Unusual
        fields = defaults.copy()
        given: set[str] = set()
        extra: dict[str, Any] = {}
        for key, value in values.items():
            if key in aliases:
                raise Unusual
            if key not in fields:
                extra[key] = value
                continue
            if key in scalars and type(value) is scalars[key]:
                if key in allowed and value not in allowed[key]:
                    raise Unusual
                fields[key] = value
            elif value is not None:
                if key not in nested:
                    raise Unusual
                fields[key] = nested[key](value)
            elif key not in nullable:
                raise Unusual
            given.add(key)
        if not required <= given:
            raise Unusual
        if validated and extra:
            given.update(extra)
        built = new(model)
        _set(built, "__dict__", fields)
        _set(built, "__pydantic_private__", None)
        _set(built, "__pydantic_extra__", extra)
        _set(built, "__pydantic_fields_set__", given)
        return built

    return build
