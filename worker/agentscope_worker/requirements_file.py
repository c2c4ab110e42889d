"""Parses requirements.txt as pip reads it. Pure.

Owns the format of the file: encoding, comments, continued lines, variables, options, and other files. The
grammar of one requirement is that of `packaging`. A path, or a URL without a name, is left to pip. So is
every option except -r and -c, because a newer pip may have options that are not known here.

Source: https://pip.pypa.io/en/stable/reference/requirements-file-format/
"""

import codecs
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from packaging.requirements import Requirement

_BOMS: Final = {  # the mark of UTF-32 in little-endian order begins with that of UTF-16
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_CODING: Final = re.compile(rb"coding[:=]\s*([-\w.]+)")  # in a comment, as in Python source (PEP 263)
_COMMENT: Final = re.compile(r"(^|\s+)#.*$")
_VARIABLE: Final = re.compile(r"\$\{([A-Z0-9_]+)\}")
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_OTHER_FILE: Final = re.compile(r"(-r|-c|--requirement|--constraint)(?:\s*=\s*|\s*)(.+)")
_LINE_OPTIONS: Final = re.compile(r"\s+-.*")  # of one requirement, such as --hash
_LOCATION: Final = re.compile(
    r"^[.~]|^[\w.+-]*:|[/\\]|\.(whl|zip|tar|tar\.\w+|tgz|tbz|txz)(\[.*\])?$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class OtherFile:
    """A line that names another file, relative to this one: requirements, or constraints of them."""

    path: str
    constrains: bool


def decode(raw: bytes, locale_encoding: str) -> str:
    """Return the text of a file.

    Its encoding is that of its byte-order mark, that of its first two lines, UTF-8, or that of the locale.
    Raises: UnicodeDecodeError, LookupError.
    """
    for mark, encoding in _BOMS.items():
        if raw.startswith(mark):
            return raw.decode(encoding)
    for line in raw.splitlines()[:2]:
        if line.startswith(b"#") and (named := _CODING.search(line)):
            return raw.decode(named[1].decode("ascii"))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode(locale_encoding)


def lines(text: str, env: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Yield the lines with content: the number of the first, and the text without comments.

    A line that ends with a backslash continues on the next one. Variables in a URL, and variables that are
    not set, stay as they are.
    """
    parts: list[str] = []
    first = 1
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if not parts:
            first = number
        is_comment = _COMMENT.match(line) is not None
        if line.endswith("\\") and not is_comment:
            parts.append(line.strip("\\"))
            continue
        # A comment ends a continued line, and is one even if the line before it has no space at its end.
        whole = "".join([*parts, " " * is_comment, line])
        parts.clear()
        content = _COMMENT.sub("", whole).strip()
        if "://" not in content:  # a variable in a URL is usually a secret, and the check does not need it
            content = _VARIABLE.sub(lambda found: env.get(found[1]) or found[0], content)
        if content:
            yield first, content


def without_secrets(text: str) -> str:
    """Return the text without user names and passwords in URLs."""
    return _CREDENTIALS.sub("…", text)


def parse(line: str) -> Requirement | OtherFile | None:
    """Return the meaning of a line; None if only pip can tell whether it is fulfilled.

    Raises: packaging.requirements.InvalidRequirement.
    """
    if line.startswith("-"):
        other = _OTHER_FILE.fullmatch(line)
        if other is None or "://" in other[2]:
            return None
        return OtherFile(_first_word(other[2]), constrains=other[1] in ("-c", "--constraint"))
    text = _LINE_OPTIONS.sub("", line)
    before_url = re.split("[@;]", text, maxsplit=1)[0].strip()
    return None if _LOCATION.search(before_url) else Requirement(text)


def _first_word(text: str) -> str:
    try:
        return shlex.split(text)[0]
    except ValueError:  # a quote that is not closed
        return text
