"""docs/reference/settings.md, from the JSON Schema of agentapp.yaml. Pure."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import BaseModel

from agentscope_protocol.config.settings import Settings, json_schema
from agentscope_supervisor.workers.reloadable_keys import needs_restart
from tools.docs.markdown import code, page, table

SOURCE: Final = "`protocol/agentscope_protocol/config/`"

INTRODUCTION: Final = f"""
Every key of `agentapp.yaml`. The page is generated from the JSON Schema that `agentscope-supervisor schema`
prints. The descriptions are in {SOURCE}.
The file `configs/agentapp.full.yaml` shows all keys in use.

- An empty file is valid. Every section is optional.
- `${{NAME}}` in a string is replaced by the environment variable `NAME`. An unset variable is an error.
  `$${{NAME}}` stands for the literal text `${{NAME}}`.
- Relative paths are relative to the project folder.
- An unknown key or an invalid value is an error. All errors of a file are reported together, each with the
  key path, the line and the allowed values.
- Options of the command line override the file.

The column *applied by* says how a changed value takes effect. `reload`: by a successful reload
(`agentscope-supervisor reload`, SIGHUP or the platform). `restart`: by a restart of the instance.
"""

UNBOUNDED: Final = {31_536_000, 1_000_000, 1_048_576, 4096}
"""Upper bounds that only keep nonsense out: a year, a million, a terabyte in MB, the length of a path."""

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Key:
    """One key of agentapp.yaml."""

    path: str  # dotted
    type: str
    default: str  # empty: the key is required
    meaning: str
    applied_by: str


def keys(schema: Schema) -> Iterator[Key]:
    """All keys that have a value of their own, in the order of the schema."""
    for section, outer in schema["properties"].items():
        found = section_of(schema, section, outer)
        if found is None:
            key = outer["anyOf"][0]
            default = _literal(outer.get("default", key.get("default")))
            yield Key(section, type_of(outer), default, key.get("description", ""), "reload")
            continue
        path, inner = found
        required = inner.get("required", ())
        for name, key in inner["properties"].items():
            yield Key(
                f"{path}.{name}",
                type_of(key),
                "" if name in required else _literal(key.get("default")),
                key.get("description", ""),
                applied_by(section, name),
            )


def sections(schema: Schema) -> Iterator[tuple[str, str, str]]:
    """Each top-level section: name, its description as a key, and the docstring of its model."""
    for section, outer in schema["properties"].items():
        found = section_of(schema, section, outer)
        if found is not None:
            yield section, outer["anyOf"][0].get("description", ""), found[1].get("description", "")


def section_of(schema: Schema, name: str, outer: Schema) -> tuple[str, Schema] | None:
    """The path of a section's keys, and its schema; None for a key that is no section, such as `app`."""
    choices = [choice for each in outer["anyOf"] for choice in each.get("anyOf", [each])]
    for choice in choices:
        if "$ref" in choice:
            return name, schema["$defs"][choice["$ref"].rpartition("/")[2]]
        if "additionalProperties" in choice:
            reference = choice["additionalProperties"]["$ref"]
            return f"{name}.<name>", schema["$defs"][reference.rpartition("/")[2]]
    return None


def type_of(key: Schema) -> str:
    """The type of a value, its bounds and its choices, in Markdown."""
    choices = [choice for each in key.get("anyOf", [key]) for choice in each.get("anyOf", [each])]
    # a ${VAR} in place of the value, which every key takes
    words = [_choice(each) for each in choices if "\\$\\{" not in each.get("pattern", "")]
    return ", or ".join(dict.fromkeys(words))


def _choice(schema: Schema) -> str:
    match schema:
        case {"enum": values}:
            return ", ".join(code(_literal(value)) for value in values)
        case {"const": value}:
            return code(value)
        case {"type": "null"}:
            return "`null`"
        case {"type": "integer" | "number" as name}:
            return f"{name}{_bounds(schema)}"
        case {"type": "string", "format": "password"}:
            return "secret string"
        case {"type": "string"}:
            return "string"
        case {"type": "array"}:
            return "list of strings"
        case {"type": "boolean"}:
            return "boolean"
        case {"type": "object", "additionalProperties": {"format": "password"}}:
            return "mapping of names to secret strings"
        case {"type": "array", "items": {"type": "string"}}:
            return "list of strings"
        case {"type": "object"}:
            return "mapping"
    raise ValueError(f"no words for {schema}")


def _literal(value: object) -> str:
    """A value as agentapp.yaml may hold it."""
    return value if isinstance(value, str) else json.dumps(value)


def _bounds(schema: Schema) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        return f" above {schema['exclusiveMinimum']}"
    if most in UNBOUNDED:
        return f", {least} or more"
    return f" from {least} to {most}"


def applied_by(section: str, name: str) -> str:
    """The way a changed value of the key takes effect: by a reload or by a restart."""
    annotation = Settings.model_fields[section].annotation
    kinds = [each for each in (annotation, *get_args(annotation)) if isinstance(each, type)]
    (model,) = (each for each in kinds if issubclass(each, BaseModel))
    value: dict[str, Any] = {name: object()}
    changed: dict[str, Any] = {section: model.model_construct(**value)}
    stale = needs_restart(Settings(), Settings.model_construct(**changed))
    return "restart" if f"{section}.{name}" in stale else "reload"


def text() -> str:
    """The page."""
    schema = json_schema()
    rows = list(keys(schema))
    parts = [_table(key for key in rows if "." not in key.path)]
    for section, _, meaning in sections(schema):
        parts += [f"## {section}", meaning, _table(k for k in rows if k.path.startswith(f"{section}."))]
    return page("Settings", INTRODUCTION, *parts)


def _table(shown: Iterable[Key]) -> str:
    return table(
        ("key", "type", "default", "meaning", "applied by"),
        [[f"`{k.path}`", k.type, code(k.default) or "required", k.meaning, k.applied_by] for k in shown],
    )
