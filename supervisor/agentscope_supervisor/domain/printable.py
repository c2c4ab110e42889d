"""Text of an App as a terminal may show it: without control characters. Pure.

An App, its models and its tools decide what their text contains. Some control characters make a terminal move
the cursor, rename its window or answer as if the operator had typed. Some characters of Unicode reverse the
text after them, so that a command reads as another one.
"""

from typing import Final

_CONTROL: Final = {*range(0x20), *range(0x7F, 0xA0)} - {9, 10}  # line feeds and tabs are allowed
_DIRECTION: Final = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]  # embeddings, overrides, isolates
_ESCAPED: Final = {code: f"\\x{code:02x}" for code in _CONTROL} | {
    code: f"\\u{code:04x}" for code in _DIRECTION
}


def printable(text: str) -> str:
    """Return the text with characters escaped that control a terminal or the direction of text."""
    return text.translate(_ESCAPED)
