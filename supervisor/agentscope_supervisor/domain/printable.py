"""Text of an App as a terminal may show it: without control characters. Pure.

An App, its models and its tools decide what their text contains. Some control characters make a terminal move
the cursor, rename its window or answer as if the operator had typed.
"""

from typing import Final

# Line feeds and tabs are allowed.
_ESCAPED: Final = {
    code: f"\\x{code:02x}" for code in [*range(0x20), *range(0x7F, 0xA0)] if code not in (9, 10)
}


def printable(text: str) -> str:
    """Return the text with control characters escaped, except line feeds and tabs."""
    return text.translate(_ESCAPED)
