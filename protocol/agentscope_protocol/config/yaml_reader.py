"""agentapp.yaml as plain data: size limits, the line of each key, and `${VAR}` substitution. Pure.

Owns the accepted subset of YAML: only the standard tags, no duplicate keys, no keys other than text, and
aliases within limits. It must not know any configuration key. Invalid text does not raise: it becomes a
problem, and reading continues where possible, so that one report contains all problems.

Read next: `settings`, which validates the data.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml
from yaml.constructor import SafeConstructor

from agentscope_protocol.config.problems import Path, Problem, dotted, shortened

MAX_CHARACTERS = 1024 * 1024  # of the text, and again after alias expansion; a typical file has a few KB
MAX_NODES = 10_000  # mappings, lists, keys and scalars after alias expansion; stops "billion laughs"
MAX_DEPTH = 32  # levels; keeps recursion here and in pydantic far below Python's limit
MAX_NUMBER = 64  # characters; parsing YAML 1.1's base-60 numbers takes quadratic time

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_TEXT_TAGS = {_TAG + name for name in ("str", "timestamp", "merge", "value")}
_NUMBER_TAGS = {_TAG + "int", _TAG + "float"}
_KEY_LINE = re.compile(r"(?P<indent> *)(?P<key>[\w.-]{1,40}):(?: +(?P<value>[^\s#].*)?)?\s*(?:#.*)?$")
_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|\$\{")


@dataclass(slots=True)
class Document:
    """The readable part of a file.

    `data` is JSON-like. `lines` maps each path in it to a line, counted from 1. `invalid` contains the paths
    whose values are meaningless because a problem was reported for them. `references` maps the name of each
    `${VAR}` to the paths that refer to it.
    """

    data: dict[str, object] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)
    invalid: set[Path] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    references: dict[str, set[Path]] = field(default_factory=dict)

    def report(self, path: Path, line: int, message: str) -> None:
        """Add a problem with a key, or with the text as a whole."""
        self.problems.append(Problem(line, dotted(path), message))

    def report_value(self, path: Path, message: str) -> None:
        """Add a problem with the value at a path whose line is known, and mark the value as invalid."""
        self.invalid.add(path)
        self.report(path, self.lines[path], message)


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with limits on the number and depth of nodes, before aliases are expanded."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._nodes += 1
        self._depth += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # missing in the stubs
        _check_bounds(self._nodes, self._depth, mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


# YAML 1.1 reads 1e-5 as text, because it requires a point and a sign; authors mean the number.
_Loader.add_implicit_resolver(
    _TAG + "float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _check_bounds(nodes: int, depth: int, mark: yaml.Mark) -> None:
    if nodes > MAX_NODES:
        raise yaml.MarkedYAMLError(problem=f"more than {MAX_NODES} values", problem_mark=mark)
    if depth > MAX_DEPTH:
        raise yaml.MarkedYAMLError(problem=f"more than {MAX_DEPTH} levels", problem_mark=mark)


def read(text: str, env: Mapping[str, str]) -> Document:
    """Parse `text`, with variables taken from `env`. Never raises; see `Document.problems`."""
    document = Document()
    if len(text) > MAX_CHARACTERS:
        document.report((), 1, f"the file is longer than {MAX_CHARACTERS} characters")
        return document
    try:
        data = _Converter(document).root(text)
    except yaml.YAMLError as error:
        document.report((), *_syntax_problem(error, text))
        return document
    if isinstance(data, dict):
        document.data = {
            key: _substituted(section, (key,), document, env)
            for key, section in data.items()
            if section is not None  # all its keys are commented out: it keeps its defaults
        }
    elif data is not None:
        found = "a list" if isinstance(data, list) else "a single value"
        document.report((), 1, f"must be a mapping with keys such as models or server, not {found}")
    return document


def _syntax_problem(error: yaml.YAMLError, text: str) -> tuple[int, str]:
    """Line and message for an error from PyYAML."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return line, f"is not valid YAML: the character U+{error.character:04X} is not allowed"
    assert isinstance(error, yaml.MarkedYAMLError)
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    words = ", ".join(shortened(part) for part in (error.context, error.problem) if part)
    lines = text.splitlines()
    here = lines[line - 1] if line <= len(lines) else ""
    if "\t" in here[: len(here) - len(here.lstrip())]:
        return line, "is indented with a tab; YAML allows only spaces"
    message = f"is not valid YAML: {words}"
    if "${" in here:
        message += "; a ${VAR} inside { } or [ ] needs quotes"
    else:
        message += _indentation_hint(lines[:line])
    return line, message


def _indentation_hint(lines: list[str]) -> str:
    """How the last of these lines is indented, if that may be the mistake; else ""."""
    keys = [match for match in map(_KEY_LINE.match, lines) if match]
    if len(keys) < 2 or keys[-1].string is not lines[-1]:
        return ""
    above, here = keys[-2], keys[-1]
    is_deeper = len(here["indent"]) > len(above["indent"])
    if len(here["indent"]) == len(above["indent"]) or (is_deeper and not above["value"]):
        return ""
    return (
        f"; the line is indented by {_spaces(here)}, and {above['key']!r} above it by {_spaces(above)}: "
        "keys of one section have the same indentation"
    )


def _spaces(key_line: re.Match[str]) -> str:
    count = len(key_line["indent"])
    return f"{count} space{'' if count == 1 else 's'}"


class _Converter:
    """Converts YAML nodes to plain data, with aliases expanded and counted."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._constructor = SafeConstructor()
        self._nodes = self._characters = 0

    def root(self, text: str) -> object:
        """The data of the single document in the text, or None if it is empty.

        Raises:
            yaml.YAMLError: the text is not valid YAML, or exceeds a limit.
        """
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        except (ValueError, OverflowError):
            # PyYAML's scanner does not catch these, for escapes and directives with huge numbers.
            mark = yaml.Mark("", 0, loader.line, 0, None, 0)
            raise yaml.MarkedYAMLError(problem="number out of range", problem_mark=mark) from None
        self._document.lines[()] = 1
        return None if node is None else self._value(node, (), 1)

    def _count(self, node: yaml.Node, depth: int) -> None:
        self._nodes += 1
        _check_bounds(self._nodes, depth, node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            self._characters += len(node.value)
            if self._characters > MAX_CHARACTERS:
                raise yaml.MarkedYAMLError(
                    problem=f"more than {MAX_CHARACTERS} characters after aliases",
                    problem_mark=node.start_mark,
                )

    def _value(self, node: yaml.Node, path: Path, depth: int) -> object:
        self._count(node, depth)
        match node:
            case yaml.MappingNode(tag=tag) if tag == _TAG + "map":
                return self._mapping(node, path, depth)
            case yaml.SequenceNode(tag=tag) if tag == _TAG + "seq":
                return self._list(node, path, depth)
            case yaml.ScalarNode():
                return self._scalar(node, path)
        self._bad_tag(node, path)
        return None

    def _list(self, node: yaml.SequenceNode, path: Path, depth: int) -> list[object]:
        values = []
        for index, item in enumerate(node.value):
            here = (*path, index)
            self._document.lines[here] = item.start_mark.line + 1
            values.append(self._value(item, here, depth + 1))
        return values

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> object:
        try:
            if node.tag in _TEXT_TAGS:
                return node.value
            if node.tag == _TAG + "null":
                return None
            if node.tag == _TAG + "bool":
                return self._constructor.construct_yaml_bool(node)
            if node.tag in _NUMBER_TAGS:
                return self._number(node)
        except (ValueError, LookupError, ArithmeticError):
            self._document.report_value(path, "is not a valid number or truth value")
            return None
        self._bad_tag(node, path)
        return None

    def _number(self, node: yaml.ScalarNode) -> int | float:
        if len(node.value) > MAX_NUMBER:
            raise ValueError
        if node.tag == _TAG + "int":
            return self._constructor.construct_yaml_int(node)
        number = self._constructor.construct_yaml_float(node)
        if number - number != 0:  # infinity or NaN, which JSON cannot represent
            raise ValueError
        return number

    def _bad_tag(self, node: yaml.Node, path: Path) -> None:
        tag = shortened(node.tag.removeprefix(_TAG))
        self._document.report_value(path, f"the YAML tag {tag!r} is not supported")

    def _mapping(self, node: yaml.MappingNode, path: Path, depth: int) -> dict[str, object]:
        pairs = self._merged(node, path, depth)
        own: dict[str, int] = {}  # key -> line of its first use
        for key_node, value_node in node.value:
            self._count(key_node, depth)
            line = key_node.start_mark.line + 1
            if key_node.tag == _MERGE:
                continue
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                shown = (key_node.value,) if isinstance(key_node, yaml.ScalarNode) else ()
                self._document.report((*path, *shown), line, "a key must be text; put it in quotes")
                continue
            key = key_node.value
            here = (*path, key)
            if not _is_unicode(key):
                self._document.report(here, line, "is not valid Unicode")
                continue
            if key in own:
                self._document.report(here, line, f"is defined twice; first on line {own[key]}")
            own.setdefault(key, line)
            self._document.lines[here] = line
            pairs[key] = self._value(value_node, here, depth + 1)
        return pairs

    def _merged(self, node: yaml.MappingNode, path: Path, depth: int) -> dict[str, object]:
        """The pairs that `<<` merges in: the first of several mappings wins, and own keys override all."""
        pairs: dict[str, object] = {}
        for key_node, value_node in node.value:
            if key_node.tag != _MERGE:
                continue
            bases = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            for base in reversed(bases):
                self._count(base, depth)
                if isinstance(base, yaml.MappingNode):
                    pairs.update(self._mapping(base, path, depth + 1))
                else:
                    line = base.start_mark.line + 1
                    self._document.report((*path, "<<"), line, "must be a mapping or a list of them")
        return pairs


def _substituted(value: object, path: Path, document: Document, env: Mapping[str, str]) -> object:
    """The value with each `${VAR}` in its strings replaced; mapping keys are not substituted."""
    if isinstance(value, str):
        return _substituted_text(value, path, document, env)
    if isinstance(value, list):
        return [_substituted(item, (*path, index), document, env) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _substituted(item, (*path, key), document, env) for key, item in value.items()}
    return value


def _substituted_text(text: str, path: Path, document: Document, env: Mapping[str, str]) -> str:
    problems: list[str] = []

    def replacement(reference: re.Match[str]) -> str:
        name = reference["name"]
        if reference[0] == "$${":
            return "${"
        if name:
            document.references.setdefault(name, set()).add(path)
        if name in env:
            return env[name]
        # The text after a malformed ${ is not shown: it may be a secret that was meant as a default.
        problems.append(
            f"the environment variable {shortened(name)} is not set"
            if name
            else "contains a ${ that is not ${NAME} (defaults are not supported; write $${ for a literal ${)"
        )
        return ""

    result = _REFERENCE.sub(replacement, text)
    if not _is_unicode(result):
        problems.append("is not valid Unicode")
    for problem in dict.fromkeys(problems):
        document.report_value(path, problem)
    return result


def _is_unicode(text: str) -> bool:
    """False if the text has lone surrogates, which YAML escapes and the environment can contain."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
