"""JSON bytes of any value, for messages that must reach a client whatever an App put into them.

It owns the replacements for what JSON cannot hold: an object becomes its `str`, a lone surrogate
U+FFFD, an integer beyond 64 bits a string. It must not be used for stored state, which has to come
back as it was. Read `agentscope_worker.messages` for its use.
"""

from collections.abc import Mapping

import orjson

_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1  # what orjson writes


def dumps(value: object) -> bytes:
    """`value` as one line of UTF-8 JSON; never fails on what a leaf of it is."""
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return orjson.dumps(_writable(value), default=str)


def _writable(value: object) -> object:
    """A copy of `value` without the strings and integers that orjson refuses."""
    match value:
        case str():
            return _text(value)
        case int() if not _INT_MIN <= value <= _INT_MAX:
            return str(value)
        case None | bool() | int() | float():
            return value
        case Mapping():
            return {_text(str(key)): _writable(each) for key, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_writable(each) for each in value]
        case _:
            return _text(str(value))


def _text(text: str) -> str:
    """`text` with surrogate pairs joined and lone surrogates replaced by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
