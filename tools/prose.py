"""Checks prose by the rules in .vale/styles, as Vale would: Markdown, docstrings, comments and texts in code.

    python -m tools.prose [PATH …]     (in `make check`: the paths of [tool.prose] in pyproject.toml)
    python -m tools.prose --all        (`make prose`: every source; counts per folder)

Vale itself is a binary that PyPI does not carry. `findings` is pure; `main` reads files and prints.
"""

import argparse
import configparser
import io
import re
import sys
import tokenize
import tomllib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate, pairwise
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[1]
SHORTEST: Final = 3  # words of a string in code that counts as prose; shorter ones are keys and names
MASK: Final = "\N{MIDDLE DOT}"  # stands for code inside prose: no word of ours, and no space


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule file. `patterns`: each with its replacement, empty for none. `most`: matches per sentence."""

    name: str
    message: str
    in_sentences: bool
    patterns: Sequence[tuple[re.Pattern[str], str]]
    most: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of prose: a paragraph, a cell, a docstring. `start`: its offset in the file."""

    start: int
    text: str  # of the same length as in the file; code is masked
    is_heading: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation."""

    path: str
    line: int
    column: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.rule}: {self.message}"


# -- rules -----------------------------------------------------------------------------------------


def rule(name: str, source: str) -> Rule:
    """A rule from its YAML. Raises: ValueError, for a kind of rule that this checker does not know."""
    given: dict[str, Any] = yaml.safe_load(source)
    flags = re.IGNORECASE if given.get("ignorecase") else 0
    match given["extends"]:
        case "existence":
            tokens = {token: "" for token in given["tokens"]}
        case "substitution":
            tokens = given["swap"]
        case "occurrence":
            tokens = {given["token"]: ""}
        case other:
            raise ValueError(f"{name}: rules of the kind {other!r} are not supported")
    bare = given.get("nonword", False) or given["extends"] == "occurrence"
    patterns = [(_compiled(token, flags, bare=bare), better) for token, better in tokens.items()]
    return Rule(name, given["message"], given.get("scope") == "sentence", patterns, given.get("max", 0))


def _compiled(token: str, flags: int, *, bare: bool) -> re.Pattern[str]:
    spaced = re.sub(r"(?<!\[\^) ", r"\\s+", token)  # prose is wrapped: a space may be a line end
    return re.compile(spaced if bare else rf"\b(?:{spaced})\b", flags)


def rules_of(path: str, rules: Mapping[str, Rule], sections: Mapping[str, Mapping[str, str]]) -> list[Rule]:
    """The rules that the sections of .vale.ini turn on for a file; later sections win."""
    on: dict[str, bool] = {}
    for pattern, section in sections.items():
        if any(fnmatchcase(path, each) for each in _alternatives(pattern)):
            styles = section.get("BasedOnStyles", "").split(",")
            on |= {name: True for name in rules if name.partition(".")[0] in map(str.strip, styles)}
            on |= {name: value == "YES" for name, value in section.items() if name in rules}
    return [rules[name] for name, is_on in on.items() if is_on]


def _alternatives(pattern: str) -> list[str]:
    before, brace, rest = pattern.partition("{")
    words, _, after = rest.partition("}")
    return [f"{before}{word}{after}" for word in words.split(",")] if brace else [pattern]


# -- prose in files --------------------------------------------------------------------------------

_INLINE: Final = re.compile(
    r"(?P<code>(`+).+?(?<!`)\2(?!`))|(?P<link>\]\([^)\s]*\))|(?P<html><!--.*?-->|</?[a-zA-Z][^>]*>)"
    r"|(?P<url>https?://\S+)",
    re.DOTALL,
)
_DELIMITER: Final = re.compile(r"\s*\|[\s|:-]+$")  # below the heading of a table
_ITEM: Final = re.compile(r"\s*(?:[-*+]|\d+\.|!!!|>)\s")


def _masked(text: str) -> str:
    """The text with code, links and tags masked, line ends kept."""
    return _INLINE.sub(lambda found: re.sub(r"[^\n]", MASK if found["code"] else " ", found[0]), text)


def markdown(text: str) -> Iterator[Block]:
    """The paragraphs, list items, headings and table cells of a page."""
    start, offset = None, 0
    text = _masked_fences(text)
    for line, following in pairwise([*text.splitlines(keepends=True), "\n", ""]):
        stripped = line.strip()
        starts = bool(_ITEM.match(line))
        alone = stripped.startswith(("#", "|"))
        if start is not None and (not stripped or starts or alone):
            yield Block(start, _masked(text[start:offset]))
            start = None
        if stripped.startswith("|"):
            yield from _cells(line, offset, is_heading=bool(_DELIMITER.match(following)))
        elif alone:
            yield Block(offset, _masked(line), is_heading=True)
        elif stripped and start is None:
            start = offset
        offset += len(line)


def _masked_fences(text: str) -> str:
    """The text with blank lines in place of fenced code."""
    fences = re.compile(r"^( *)(`{3,}|~{3,})[^\n]*\n.*?(?:^ *\2[^\n]*$|\Z)", re.DOTALL | re.MULTILINE)
    return fences.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def _cells(line: str, offset: int, *, is_heading: bool) -> Iterator[Block]:
    masked = _masked(line)
    for cell in re.finditer(r"(?:[^|\\]|\\.)+", masked):
        yield Block(offset + cell.start(), cell[0], is_heading)


def python(text: str) -> Iterator[Block]:
    """The docstrings, comments, and strings of at least `SHORTEST` words of a module."""
    starts = [0, *accumulate(len(line) for line in text.splitlines(keepends=True))]
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    last: tuple[int, int, int] | None = None  # kind, start, end of what may go on
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            continue
        begin = starts[token.start[0] - 1] + token.start[1]
        end = starts[token.end[0] - 1] + token.end[1]
        joins = last is not None and token.type == last[0] and text[last[2] : begin].count("\n") < 2
        if last is not None and not joins:
            yield from _python_block(text, *last)
            last = None
        if token.type in kinds:
            last = (token.type, last[1] if last is not None else begin, end)
    if last is not None:
        yield from _python_block(text, *last)


def _python_block(text: str, kind: int, start: int, end: int) -> Iterator[Block]:
    found = text[start:end]
    if kind == tokenize.COMMENT:
        found = re.sub(r"#(?:!| *(?:noqa|type:|pragma|mypy:))[^\n]*", lambda each: " " * len(each[0]), found)
        found = re.sub(r"(?m)^( *)#", r"\1 ", found)
    else:
        found = re.sub(r"\{[^{}\n]*\}", lambda each: MASK * len(each[0]), found)
        found = re.sub(
            r'(?m)^ *[rbfRBF]{0,2}(?:"""|"|\')|(?:"""|"|\')$', lambda each: " " * len(each[0]), found
        )
        if len(found.split()) < SHORTEST:
            return
    for paragraph in re.finditer(r"\S(?:.|\n(?!\s*\n))*", found):
        yield Block(start + paragraph.start(), _masked(paragraph[0]))


def sentences(block: Block) -> Iterator[Block]:
    """The sentences of a block; a heading has none."""
    if block.is_heading:
        return
    for found in re.finditer(r"\S.*?(?:[.!?](?=\s+[^a-z\s])|[.!?:]?\s*\Z)", block.text, re.DOTALL):
        marker = _ITEM.match(found[0])
        skipped = marker.end() if marker is not None else 0
        if found[0][skipped:].strip():
            yield Block(block.start + found.start() + skipped, found[0][skipped:])


# -- checking --------------------------------------------------------------------------------------


def findings(path: str, text: str, rules: Sequence[Rule]) -> list[Finding]:
    """The violations in a file, in the order of their places. `path` ends in .md or .py."""
    starts = [0, *accumulate(len(line) for line in text.splitlines(keepends=True))]
    found = set()
    for block in markdown(text) if path.endswith(".md") else python(text):
        for each in rules:
            for part in sentences(block) if each.in_sentences else [block]:
                for offset, message in _matches(each, part.text):
                    at = part.start + offset
                    line = bisect_right(starts, at)
                    found.add(Finding(path, line, at - starts[line - 1] + 1, each.name, message))
    return sorted(found, key=lambda each: (each.line, each.column, each.rule))


def _matches(each: Rule, text: str) -> Iterator[tuple[int, str]]:
    for pattern, better in each.patterns:
        matches = list(pattern.finditer(text))
        if each.most:
            if len(matches) > each.most:
                yield 0, each.message
            continue
        for match in matches:
            words = " ".join(match[0].split())
            shown = (better, words) if better else (words,)
            yield match.start(), each.message % shown[: each.message.count("%s")]


# -- the command -----------------------------------------------------------------------------------


def house_rules(root: Path = ROOT) -> tuple[dict[str, Rule], dict[str, dict[str, str]]]:
    """The rules below .vale/styles, and the sections of .vale.ini."""
    files = sorted((root / ".vale" / "styles").glob("*/*.yml"))
    rules = {f"{file.parent.name}.{file.stem}": file.read_text("utf-8") for file in files}
    ini = configparser.ConfigParser(default_section="", interpolation=None)
    ini.optionxform = str  # type: ignore[assignment,method-assign]  # names of rules have capitals
    ini.read_string("[*]\n" + (root / ".vale.ini").read_text("utf-8"))
    sections = {name: dict(ini[name]) for name in ini.sections()}
    return {name: rule(name, source) for name, source in rules.items()}, sections


def _files(root: Path, paths: Sequence[str], exclude: Sequence[str]) -> Iterator[Path]:
    for path in paths:
        below = root / path
        for file in [below] if below.is_file() else sorted(below.rglob("*")):
            name = PurePosixPath(file.relative_to(root))
            if file.suffix in (".md", ".py") and not any(name.is_relative_to(each) for each in exclude):
                yield file


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.prose")
    parser.add_argument("paths", nargs="*", help="files and folders, in place of those of pyproject.toml")
    parser.add_argument("--all", action="store_true", help="every source, as a count for each folder")
    asked = parser.parse_args(arguments)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["prose"]
    paths = asked.paths or [*settings["paths"], *(settings["later"] if asked.all else [])]
    rules, sections = house_rules()
    found: list[Finding] = []
    for file in _files(ROOT, paths, settings["exclude"]):
        name = file.relative_to(ROOT).as_posix()
        found += findings(name, file.read_text("utf-8"), rules_of(name, rules, sections))
    if asked.all:
        for folder, count in sorted(Counter(str(PurePosixPath(each.path).parent) for each in found).items()):
            print(f"{count:5} {folder}")
    else:
        for each in found:
            print(each)
    print(f"{len(found)} violations of the prose rules" if found else "the prose follows the rules")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
