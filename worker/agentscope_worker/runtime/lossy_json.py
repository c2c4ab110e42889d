"""JSON encoding that accepts any value, for messages that must reach a client whatever they contain.

Owns the replacements for values that JSON cannot represent: an object becomes its `str`, a lone surrogate
becomes U+FFFD, and an integer beyond 64 bits becomes a string. It must not be used for stored state, which
has to be restored unchanged.

Read next: `agentscope_worker.messages`, which uses it.
"""

from collections.abc import Mapping

import orjson

_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1  # the range that orjson supports


def dumps(value: object) -> bytes:
    """`value` as one line of UTF-8 JSON; replaces leaves that JSON cannot represent."""
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return orjson.dumps(_writable(value), default=str)


def _writable(value: object) -> object:
    """A copy of `value` without the strings and integers that orjson rejects."""
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
