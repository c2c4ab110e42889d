"""The outline of a large JSON body: its grammar is checked, and a few values of it are read. Pure.

A parser builds every value of the body, and stops the event loop until it has: for a second, and with 500 MB,
for 16 MB of empty objects. An `Outline` builds nothing but the wanted values, works in steps of about a
millisecond, and refuses a body with too many values or levels as soon as it has read that many. Apart from
these limits it accepts the same bodies as orjson, so that the worker can parse whatever it accepts.

Where to read next: `http1.body` takes the steps; `domain.request` parses small bodies.
"""

import hashlib
import re
from typing import Any, Final

import orjson

from agentscope_supervisor.domain.errors import Refused, invalid

MAX_DEPTH: Final = 1024  # levels of objects and lists; the limit of orjson, which parses small bodies
MAX_VALUES: Final = 100_000
"""Values of a large body, on all levels: a parser builds so many in 50 ms. A message with twenty images has
about a hundred."""
MAX_NUMBER: Final = 1024  # characters of one number
MAX_TEXT: Final = 64 * 1024  # bytes of a text that the supervisor needs

STEP: Final = 32 * 1024  # bytes that one step reads; escapes are the slowest, at about 30 ns for each byte
_TOKENS: Final = 500  # that one step reads at most
_LONGEST_ESCAPE: Final = 12  # bytes; a step must read more
_CUT: Final = 3  # bytes that the match of a number leaves, where a step ends within `e+1`

_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
_TOKEN: Final = re.compile(
    rb"[ \t\n\r]*+"
    rb"(?:([\[{])|([\]}])|([,:])"
    rb'|("[^"\\\x00-\x1f]*+"?+)'
    rb"|(-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null))"
)
_OPEN: Final = 1  # numbers of the groups
_CLOSE: Final = 2
_MARK: Final = 3
_TEXT: Final = 4
_REST_OF_TEXT: Final = re.compile(
    rb'[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u(?:[0-9a-cefA-CEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}'
    rb'|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))[^"\\\x00-\x1f]*+)*'
)
# No group has a possessive quantifier: Python before 3.11.5 matches too much with one (gh-106052).

_QUOTE: Final = ord('"')
_COMMA: Final = ord(",")
_BRACE: Final = ord("{")
_CLOSING_BRACE: Final = ord("}")

# The token that may come next.
_VALUE: Final = 0
_VALUE_OR_END: Final = 1
_NAME: Final = 2
_NAME_OR_END: Final = 3
_COLON: Final = 4
_COMMA_OR_END: Final = 5
_NOTHING: Final = 6

_ANY_TEXT: Final = "text"  # instead of one of which only the type matters

Path = tuple[str, ...]
"""The names that lead to a member: of the body's object, of an object in it, and so on."""


class Outline:
    """The outline of `body`. Call `step` until it returns true; then `fields` is complete.

    `paths`: the members to read; a path is read only with those that lead to it. Objects and lists come
    without their content, except members in `paths`.
    `kinds`: those of `paths` of which only the type matters: a text may be replaced by another. `digests`:
    whether to compute `digest`, the SHA-256 of the body. `size`: bytes that one step reads.
    """

    __slots__ = (
        "_at",
        "_body",
        "_checked",
        "_digest",
        "_kinds",
        "_levels",
        "_longest",
        "_next",
        "_paths",
        "_size",
        "_text_at",
        "_trail",
        "_values",
        "fields",
    )

    def __init__(
        self,
        body: bytes,
        paths: frozenset[Path],
        kinds: frozenset[Path] = frozenset(),
        *,
        digests: bool = False,
        size: int = STEP,
    ) -> None:
        assert size > _LONGEST_ESCAPE, "a step that ends in an escape reads it in the next"
        self.fields: dict[str, Any] = {}
        self._body: Final = body
        self._paths: Final = paths
        self._kinds: Final = kinds
        self._longest: Final = 2 + _LONGEST_ESCAPE * max(len(path[-1]) for path in paths)  # bytes of a name
        self._digest: Any = hashlib.sha256() if digests else None
        self._size: Final = size
        self._checked = 0 if digests or not body.isascii() else len(body)  # bytes of which the encoding is
        self._at = 0  # bytes that are read
        self._text_at = -1  # where the text begins in which the step before ended; -1: it did not
        self._values = 0
        self._levels: list[bool] = []  # that are open; true: an object
        self._next: int = _VALUE
        self._trail: Path = ()  # to the last wanted member that has begun, on each level

    @property
    def digest(self) -> bytes:
        digest: bytes = self._digest.digest()
        return digest

    def step(self) -> bool:
        """Read on for about a millisecond. Returns whether the body is complete. Raises: Refused."""
        if self._checked < len(self._body):
            self._check()
            return False
        return self._read()

    # -- the encoding ---------------------------------------------------------------------------

    def _check(self) -> None:
        body, start = self._body, self._checked
        end = min(start + self._size, len(body))
        while end < len(body) and end > start and body[end] & 0xC0 == 0x80:  # within a character
            end -= 1
        piece = body[start:end]
        if self._digest is not None:
            self._digest.update(piece)
        try:
            piece.decode()
        except UnicodeDecodeError as error:
            raise _broken("no UTF-8", start + error.start) from None
        if end == start:
            raise _broken("no UTF-8", start)
        self._checked = end

    # -- the grammar ----------------------------------------------------------------------------

    def _read(self) -> bool:
        body = self._body
        until = min(self._at + self._size, len(body))
        for _ in range(_TOKENS):
            if self._text_at >= 0:
                self._go_on_in_text()
            else:
                self._read_token()
            if self._at >= until:
                break
        if self._at < len(body) or self._text_at >= 0:
            return False
        if self._next != _NOTHING:
            raise _broken("its end is missing", self._at)
        return True

    def _read_token(self) -> None:
        body, at = self._body, self._at
        end_of_window = at + self._size + MAX_NUMBER
        found = _TOKEN.match(body, at, end_of_window)
        if found is None:
            self._skip_space()
            return
        kind = found.lastindex or 0
        start, end = found.span(kind)
        self._at = end
        if kind == _MARK:
            self._mark(body[start] == _COMMA, start)
        elif kind == _TEXT:
            if end - start > 1 and body[end - 1] == _QUOTE:
                self._text(start, end)
            else:
                self._text_at = start
        elif kind == _OPEN:
            self._open(body[start] == _BRACE, start)
        elif kind == _CLOSE:
            self._close(body[start] == _CLOSING_BRACE, start)
        elif start > at and end > end_of_window - _CUT:
            self._at = start  # it may go on: read it again, from its start
        else:
            self._scalar(start, end)

    def _skip_space(self) -> None:
        at = self._at
        found = _SPACE.match(self._body, at, at + self._size)
        assert found is not None, "it matches nothing, too"
        if found.end() == at:
            raise _broken("unexpected character", at)
        self._at = found.end()

    def _go_on_in_text(self) -> None:
        body, at = self._body, self._at
        found = _REST_OF_TEXT.match(body, at, at + self._size)
        assert found is not None, "it matches nothing, too"
        end = self._at = found.end()
        if end < len(body) and body[end] == _QUOTE:
            start, self._text_at, self._at = self._text_at, -1, end + 1
            self._text(start, end + 1)
        elif end == at:
            raise _broken("unexpected character in a text" if end < len(body) else "its end is missing", end)

    def _text(self, start: int, end: int) -> None:
        if self._next != _NAME and self._next != _NAME_OR_END:
            self._value(start, end)
            return
        self._next = _COLON
        above = len(self._levels) - 1
        if above <= len(self._trail):  # else it is in something that is not wanted
            self._trail = self._trail[:above]
            name = self._name(start, end)
            if name is not None and (*self._trail, name) in self._paths:
                self._trail = (*self._trail, name)

    def _name(self, start: int, end: int) -> str | None:
        """The name of a member; None: no wanted name is as long."""
        if end - start > self._longest:
            return None
        name: str = orjson.loads(self._body[start:end])
        return name

    def _scalar(self, start: int, end: int) -> None:
        if end - start > MAX_NUMBER:
            raise invalid(f"the body has a number of more than {MAX_NUMBER} characters")
        self._value(start, end)
        text = self._body[start:end]
        if len(text) > 300 or b"e" in text or b"E" in text:  # shorter ones are finite
            _loaded(text, start)

    def _mark(self, is_comma: bool, at: int) -> None:
        if self._next == (_COMMA_OR_END if is_comma else _COLON):
            self._next = _NAME if is_comma and self._levels[-1] else _VALUE
        else:
            raise _broken("unexpected character", at)

    def _open(self, is_object: bool, at: int) -> None:
        self._count(at)
        levels = self._levels
        if not levels and not is_object:
            raise invalid("the body must be a JSON object, not a list")
        if len(levels) >= MAX_DEPTH:
            raise invalid(TOO_DEEP)
        self._keep({} if is_object else [])
        levels.append(is_object)
        self._next = _NAME_OR_END if is_object else _VALUE_OR_END

    def _close(self, is_object: bool, at: int) -> None:
        levels = self._levels
        expected = _NAME_OR_END if is_object else _VALUE_OR_END
        is_expected = self._next == expected or self._next == _COMMA_OR_END
        if not is_expected or levels[-1] != is_object:
            raise _broken("unexpected character", at)
        levels.pop()
        self._next = _COMMA_OR_END if levels else _NOTHING

    # -- values ---------------------------------------------------------------------------------

    def _count(self, at: int) -> None:
        if self._next != _VALUE and self._next != _VALUE_OR_END:
            raise _broken("unexpected character", at)
        self._values += 1
        if self._values > MAX_VALUES:
            raise invalid(TOO_MANY)

    def _value(self, start: int, end: int) -> None:
        """A text, a number, or a word."""
        self._count(start)
        if not self._levels:
            raise invalid("the body must be a JSON object")
        self._next = _COMMA_OR_END
        path = self._path()
        if path is None:
            return
        if end - start <= MAX_TEXT:
            self._keep(_loaded(self._body[start:end], start))
        elif path in self._kinds:
            self._keep(_ANY_TEXT)
        else:
            raise invalid(f"{'.'.join(path)} has more than {MAX_TEXT} bytes")

    def _path(self) -> Path | None:
        """The path of the value that is read, if it is wanted."""
        trail = self._trail
        return trail if trail and len(trail) == len(self._levels) else None

    def _keep(self, value: Any) -> None:
        """Keep the value that is read, if it is wanted. The last one of a name is the one that counts."""
        path = self._path()
        if path is not None:
            place = self.fields
            for name in path[:-1]:
                place = place[name]
            place[path[-1]] = value


TOO_DEEP: Final = f"the body is nested more than {MAX_DEPTH} levels deep"
TOO_MANY: Final = f"the body has more than {MAX_VALUES} values"


def _loaded(text: bytes, at: int) -> Any:
    """A text, a number or a word. Raises: Refused: the number is too large."""
    try:
        return orjson.loads(text)
    except ValueError:
        raise _broken("a number that is too large", at) from None


def _broken(what: str, at: int) -> Refused:
    return invalid(f"the body is not valid JSON in UTF-8: {what}: byte {at}")
