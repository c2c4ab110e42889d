"""Parsing YAML text to plain data: syntax, duplicates, aliases, limits, line numbers, variables."""

import pytest
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from agentscope_protocol.config.settings import SettingsError, load
from agentscope_protocol.config.yaml_reader import MAX_CHARACTERS, MAX_NODES, Document, read


def problems(text: str, **env: str) -> list[str]:
    """`line: key: message` for each problem, in the order of detection."""
    found = read(text, env).problems
    return [f"{problem.line}: {problem.key}: {problem.message}" for problem in found]


def values(text: str, **env: str) -> dict[str, object]:
    document = read(text, env)
    assert document.problems == []
    return document.data


BAD = ": is not valid YAML"


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: b: c", f"1: {BAD}: mapping values are not allowed here"),
        ("a:\n\t- b", "2: : is indented with a tab; YAML allows only spaces"),
        (
            "server:\n  port: 1\n   host: x",
            f"3: {BAD}: mapping values are not allowed here; the line is indented by 3 spaces, and 'port'"
            " above it by 2 spaces: keys of one section have the same indentation",
        ),
        (
            "server:\n    port: 1\n # why\n host: x",
            f"4: {BAD}: while parsing a block mapping, expected <block end>, but found '<block mapping"
            " start>'; the line is indented by 1 space, and 'port' above it by 4 spaces: keys of one section"
            " have the same indentation",
        ),
        (
            "server:\n  port: 1\n  host: x: y",
            f"3: {BAD}: mapping values are not allowed here",
        ),
        ("a: 1\nb: *x", f"2: {BAD}: found undefined alias 'x'"),
        ("a: &x 1\nb: &x 2", f"2: {BAD}: found duplicate anchor 'x'; first occurrence, second occurrence"),
        (
            "a: 1\n---\nb: 2",
            f"2: {BAD}: expected a single document in the stream, but found another document",
        ),
        (
            "a: {b: ${C}}",
            f"1: {BAD}: while parsing a flow mapping, expected ',' or '}}', but got '{{';"
            " a ${VAR} inside { } or [ ] needs quotes",
        ),
        ("a: 1\nb: \x00", f"2: {BAD}: the character U+0000 is not allowed"),
        ("a: \ud800", f"1: {BAD}: the character U+D800 is not allowed"),
        ('a:\n "\\UFFFFFFFF"', f"2: {BAD}: number out of range"),
        ("%YAML 1." + "9" * 5000, f"1: {BAD}: number out of range"),
        ("- a", "1: : must be a mapping with keys such as models or server, not a list"),
        ("a", "1: : must be a mapping with keys such as models or server, not a single value"),
        ("[" * 100_000, f"1: {BAD}: more than 32 levels"),
        ("a: &a [*a]", f"1: {BAD}: more than 32 levels"),
        ("a: &a\n  <<: *a", f"1: {BAD}: more than 32 levels"),
        ("a: [" + "1," * MAX_NODES + "]", f"1: {BAD}: more than {MAX_NODES} values"),
        ("#" * (MAX_CHARACTERS + 1), f"1: : the file is longer than {MAX_CHARACTERS} characters"),
    ],
)
def test_invalid_yaml_is_reported_with_its_line(text: str, message: str) -> None:
    assert problems(text) == [message]
    assert read(text, {}).data == {}


def test_exponential_aliases_hit_the_node_limit() -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 9):
        laughs += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    assert problems(laughs) == [f"1: {BAD}: more than {MAX_NODES} values"]


def test_long_text_repeated_by_aliases_hits_the_character_limit() -> None:
    text = f"a: &a {'x' * 10_000}\nb: [{', '.join(['*a'] * 200)}]\n"
    (problem,) = problems(text)
    assert problem == f"1: {BAD}: more than {MAX_CHARACTERS} characters after aliases"


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: 1\nb: 2\na: 3", "3: a: is defined twice; first on line 1"),
        ("s:\n  a: 1\n  a: 2\n  a: 3", "3: s.a: is defined twice; first on line 2"),
        ("on: 1", "1: on: a key must be text; put it in quotes"),
        ("s:\n  1: 2", "2: s.1: a key must be text; put it in quotes"),
        ("s:\n  [a]: 2", "2: s: a key must be text; put it in quotes"),
        ('s:\n  "\\ud800": 2', "2: s.'\\ud800': is not valid Unicode"),
        ("a: !!binary aGk=", "1: a: the YAML tag 'binary' is not supported"),
        ("a: !!python/name:x {}", "1: a: the YAML tag 'python/name:x' is not supported"),
        ("a:\n- !!set {x}", "2: a[0]: the YAML tag 'set' is not supported"),
        ("a: !x y", "1: a: the YAML tag '!x' is not supported"),
        ("a: .inf", "1: a: is not a valid number or truth value"),
        ("a: !!float .NaN", "1: a: is not a valid number or truth value"),
        ("a: !!int ''", "1: a: is not a valid number or truth value"),
        ("a: !!int x", "1: a: is not a valid number or truth value"),
        ("a: !!bool x", "1: a: is not a valid number or truth value"),
        ("a: 1" + ":0" * 1000, "1: a: is not a valid number or truth value"),
        ("s:\n  <<: 1", "2: s.<<: must be a mapping or a list of them"),
        ("s:\n  <<: [{a: 1}, 2]", "2: s.<<: must be a mapping or a list of them"),
    ],
)
def test_unsupported_yaml_is_reported(text: str, message: str) -> None:
    assert problems(text)[0] == message


@pytest.mark.parametrize(
    "text, value",
    [
        ("1", 1),
        ("0x10", 16),
        ("1.5", 1.5),
        ("1e-5", 1e-5),
        ("2E3", 2000.0),
        ("'1'", "1"),
        ("yes", True),
        ("'yes'", "yes"),
        ("~", None),
        ("!!str 1", "1"),
        ("2026-01-15", "2026-01-15"),
        ("=", "="),
        ("<<", "<<"),
        ("[1, [x]]", [1, ["x"]]),
        ("{}", {}),
    ],
)
def test_scalars_and_collections_are_converted(text: str, value: object) -> None:
    read_value = values(f"s: {{a: {text}}}")["s"]
    assert read_value == {"a": value}
    assert isinstance(read_value, dict)
    assert type(read_value["a"]) is type(value)


def test_a_byte_order_mark_and_windows_line_ends_are_accepted() -> None:
    assert values("\ufeffa: 1\r\nb: 2\r\n") == {"a": 1, "b": 2}


def test_own_keys_override_merged_keys_and_the_first_base_wins() -> None:
    text = "x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\ns:\n  c: 3\n  <<: [*x, *y]\nt: {<<: *x}\n"
    assert values(text)["s"] == {"a": 1, "b": 1, "c": 3}
    assert values(text)["t"] == {"a": 1, "b": 1}


def test_a_merged_key_has_the_line_of_its_base() -> None:
    document = read("x: &x\n  a: [1]\n  b: 2\ns:\n  <<: *x\n  b: 3\n", {})
    assert document.lines[("s", "a", 0)] == 2
    assert document.lines[("s", "b")] == 6


@pytest.mark.parametrize(
    "text, value",
    [
        ("${A}", "x"),
        ("-${A}-${B}-", "-x-${A}-"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("$A $$ $", "$A $$ $"),
        ("${EMPTY}", ""),
    ],
)
def test_variables_are_substituted(text: str, value: str) -> None:
    env = {"A": "x", "B": "${A}", "EMPTY": ""}
    assert values(f"s: {{a: '{text}', b: ['{text}']}}", **env) == {"s": {"a": value, "b": [value]}}


def test_mapping_keys_are_not_substituted() -> None:
    assert values("'${A}': 1", A="x") == {"${A}": 1}


MALFORMED = "contains a ${ that is not ${NAME} (defaults are not supported; write $${ for a literal ${)"


@pytest.mark.parametrize(
    "text, messages",
    [
        ("${X}", ["the environment variable X is not set"]),
        (
            "${X} ${A} ${Y} ${X}",
            ["the environment variable X is not set", "the environment variable Y is not set"],
        ),
        ("${X:-secret}", [MALFORMED]),
        ("${}", [MALFORMED]),
        ("${A", [MALFORMED]),
        ("${1A}", [MALFORMED]),
        ("${BAD}", ["is not valid Unicode"]),
    ],
)
def test_invalid_or_unset_variables_are_reported(text: str, messages: list[str]) -> None:
    document = read(f"s:\n  a:\n  - '{text}'", {"A": "x", "BAD": "\udcff"})
    assert [(p.line, p.key, p.message) for p in document.problems] == [
        (3, "s.a[0]", message) for message in messages
    ]
    assert document.invalid == {("s", "a", 0)}


def test_a_document_starts_empty() -> None:
    assert read("", {}) == Document(lines={(): 1})


def refused(text: str) -> SettingsError | None:
    try:
        load(text, source="f", env={"A": "1"})
    except SettingsError as error:
        return error
    return None


YAMLISH = st.lists(
    st.sampled_from(
        [
            "a",
            "b: ",
            "- ",
            "\n",
            "  ",
            "{",
            "}",
            "[",
            "]",
            "&x ",
            "*x",
            "<<: ",
            "!!int ",
            "!",
            "${A}",
            "'",
            '"',
            "1",
            ".inf",
            "? ",
            ": ",
            ", ",
            "|\n",
            "\\U",
            "---",
            "#",
            "%",
            "\t",
            "models: ",
            "server: ",
            "\n  port: ",
        ]
    )
    | st.text(max_size=3),
    max_size=20,
).map("".join)


@given(st.text() | YAMLISH)
@example("0: 0b_")
@example("a: !!float 1:" + "0:" * 20 + "0")
@example('a: "\\U00110000"')
@profile(deadline=None, max_examples=300)
def test_any_text_is_parsed_or_rejected(text: str) -> None:
    error = refused(text)
    if error:
        assert len(str(error).splitlines()) == len(error.problems) > 0
        assert all(problem.line is not None and problem.line >= 1 for problem in error.problems)
