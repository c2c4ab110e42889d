"""The error report for an invalid agentapp.yaml, written for its author. Pure.

Owns the report (`Problem`, `SettingsError`) and the translation of pydantic errors into it. It must never
print the value of a secret or of an unknown key, nor any value other than a single scalar.

Read next: `settings`, which raises these errors.
"""

import difflib
import re
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Path = tuple[str | int, ...]
"""Location of a value: mapping keys and, in lists, indexes from 0. () is the whole file."""

MAX_SHOWN = 80  # characters of one value or key in the report, so that a line stays readable in a terminal

CONTRADICTION = "contradiction"
"""The type of a `PydanticCustomError` about values that are valid alone, but not together. Its message is
shown without the values."""

# Values at or below these keys are never printed; a test compares the list with the secret fields.
SECRET_KEYS = frozenset({"api_key", "auth_token", "client_kwargs", "headers", "redis_url", "token"})

# pydantic error type -> the allowed values. {names} are filled in from the error's context.
_ALLOWED = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be more than {gt:.15g}",
    "greater_than_equal": "must be at least {ge:.15g}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number",
    "int_type": "must be a whole number",
    "less_than_equal": "must be at most {le:.15g}",
    "list_type": "must be a list",
    "model_type": "must be a mapping",
    "string_too_long": "must be at most {max_length} characters",
    "string_too_short": "must not be empty",
    "string_type": "must be text, in quotes where YAML reads it as something else",
    "tuple_type": "must be a list",
    "value_error": "{error}",
}
_URL_SECRETS = re.compile(r"(?<=://)[^/@]*(?=@)|(?<=\?).*", re.DOTALL)  # user:password and query


@dataclass(frozen=True, slots=True)
class Problem:
    """One error: `line` counts from 1 (None: not from a file), `key` is dotted, `message` is a sentence."""

    line: int | None
    key: str
    message: str


class SettingsError(Exception):
    """The configuration is invalid. `str()` is the report, one line per problem."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.line or 0, p.key, p.message)))
        super().__init__("\n".join(_line(source, problem) for problem in self.problems))


def _line(source: str, problem: Problem) -> str:
    place = source if problem.line is None else f"{source}:{problem.line}"
    return ": ".join(part for part in (place, problem.key, problem.message) if part)


def dotted(path: Path) -> str:
    """The path as users write it, such as `models.main.stop[0]`; unprintable keys are escaped."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = shortened(part)
            text += ("." if text else "") + (key if key.isprintable() else repr(key))
    return text


def shortened(text: str) -> str:
    """The text, cut to MAX_SHOWN characters."""
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def translate(
    error: ValidationError,
    model: type[BaseModel],
    lines: Mapping[Path, int],
    invalid: Collection[Path] = (),
) -> list[Problem]:
    """The problems behind a ValidationError of `model`.

    `lines` maps each path to its line in the file (empty: no file). `invalid` contains the paths whose values
    are meaningless because a problem was already reported for them; they are skipped.
    """
    problems = []
    for details in error.errors(include_url=False):
        path = details["loc"]
        if path[-1:] == ("[key]",):  # pydantic marks an error in the key itself, not its value
            path = path[:-1]
        if path not in invalid:
            message = _sentence(details, path, model)
            problems.append(Problem(_line_of(path, lines), dotted(path), message))
    return problems


def _line_of(path: Path, lines: Mapping[Path, int]) -> int | None:
    """The line of the path, or of the closest parent if the key is missing."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path)


def _sentence(details: ErrorDetails, path: Path, model: type[BaseModel]) -> str:
    kind, given, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "missing":
        return "is required"
    if kind == CONTRADICTION:
        return details["msg"]
    if kind == "json_invalid":
        return "is not valid JSON"  # without the text, which may contain a secret
    if kind == "extra_forbidden":
        return _unknown_key(path, model)
    secret = not SECRET_KEYS.isdisjoint(path)
    refusal = "" if secret or details["loc"] != path else f"{_shown(given, kind)} is not allowed; "
    if kind == "literal_error":
        words = [word.strip("'").lower() for word in re.split(", | or ", context["expected"])]
        return f"{refusal}use one of {', '.join(words)}{_nearest(str(given), words)}"
    return refusal + _ALLOWED.get(kind, "has an unsupported form").format_map(context)


def _unknown_key(path: Path, model: type[BaseModel]) -> str:
    sections = {name: section_model(field.annotation) for name, field in model.model_fields.items()}
    here = (sections[str(path[0])] if len(path) > 1 else None) or model
    key, known = str(path[-1]), list(here.model_fields)
    hint = _nearest(key, known)
    if not hint:
        homes = [name for name, other in sections.items() if other and key in other.model_fields]
        hint = f" ('{key}' belongs under '{homes[0]}')" if homes else ""
    return f"is not a known key; use one of {', '.join(known)}{hint}"


def section_model(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation such as `X`, `X | None` or `dict[str, X]`; None for a plain value."""
    for part in (annotation, *typing.get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word.lower()[:MAX_SHOWN], known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _shown(value: object, kind: str) -> str:
    """The given value as written in the file, for an error of this kind."""
    match value:
        case str() if kind in ("dict_type", "model_type"):
            return "text"  # may be a key or token written one level too high
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return repr(shortened(_URL_SECRETS.sub("…", value) if "://" in value else value))
        case int() | float():
            return shortened(repr(value))
        case list():
            return "a list"
        case _:
            return "a mapping"
