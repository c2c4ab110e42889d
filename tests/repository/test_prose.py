"""The prose checker: each rule finds a planted violation at its place, and leaves plain prose alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import prose
from tools.prose import Finding, findings, house_rules, rules_of

ROOT = Path(__file__).parents[2]
RULES, SECTIONS = house_rules()


def found(text: str, path: str = "docs/guides/page.md") -> list[tuple[int, int, str]]:
    """Line, column and rule of each violation in a file."""
    rules = rules_of(path, RULES, SECTIONS)
    return [(each.line, each.column, each.rule) for each in findings(path, text, rules)]


@pytest.mark.parametrize(
    ("text", "column", "rule"),
    [
        ("The client is told.", 15, "House.OldTone"),
        ("Log errors and what is graver.", 24, "House.OldTone"),
        ("The retry came to nothing.", 11, "House.OldTone"),
        ("It waits in vain.", 10, "House.OldTone"),
        ("Deaths count as ever.", 14, "House.OldTone"),
        ("The machine has not this package.", 13, "House.OldTone"),
        ("Ask whoever sent it.", 5, "House.Actor"),
        ("A caller is his token.", 13, "House.Actor"),
        ("Then he waits.", 6, "House.Actor"),
        ("The client who sends it again waits.", 12, "House.Actor"),
        ("The log says what is sent is kept.", 14, "House.Actor"),
        ("What it sends is kept.", 1, "House.Subject"),
        ("A turn ends. Who comes late waits.", 14, "House.Subject"),
        ("Of a process that leaves, sessions are notified.", 1, "House.Subject"),
        ("From the first event on, errors are events.", 1, "House.Subject"),
        ("The desk answers.", 5, "House.Words"),
        ("A worn worker leaves.", 3, "House.Words"),
        ("The status counts editions.", 19, "House.Words"),
    ],
)
def test_a_planted_violation_is_found(text: str, column: int, rule: str) -> None:
    assert (1, column, rule) in found(text)
    assert (1, column + 6, rule) in found(f'"""A: {text}"""\n', "tools/x.py") or rule == "House.Subject"


@pytest.mark.parametrize(
    "text",
    [
        "Callers are identified by their token.",
        "`told` is code, and so is ``his desk``.",
        "[A link](https://example.com/he/his/desk) and https://example.com/told",
        "```\nWhat is told to his desk\n```",
        "    ~~~\n    told\n    ~~~",
        "## What a reload changes",
        "| What | Default |\n| --- | --- |\n| port | 8080 |",
        "What happens to a turn when its worker dies?",
        "The worker has not been started.",
        "<!-- told --> The turn ends.",
        "From `a` to `b`.",
    ],
)
def test_plain_prose_code_links_and_headings_pass(text: str) -> None:
    assert found(text) == []


def test_places_across_lines_and_cells() -> None:
    assert found("A line.\n\nThe run came\n  to nothing.\n") == [(3, 9, "House.OldTone")]
    assert found("| a | b |\n|---|---|\n| fine | is told |\n") == [(3, 13, "House.OldTone")]
    assert found("- An item.\n- What it was is gone.\n") == [(2, 3, "House.Subject")]


def test_docstrings_comments_and_texts_of_code() -> None:
    source = (
        '"""What it is is told."""\n'
        "x = 1  # he waits\n"
        "# noqa: told\n"
        'log.info("the desk has gone")\n'
        'key = {"edition": "desk"}\n'
        'raise E(f"{x} was told to " "whoever {asks}")\n'
        "def his(he): ...\n"
    )
    assert found(source, "supervisor/x.py") == [
        (1, 4, "House.Subject"),
        (1, 18, "House.OldTone"),
        (2, 10, "House.Actor"),
        (4, 15, "House.Words"),
        (6, 19, "House.OldTone"),
        (6, 30, "House.Actor"),
    ]


def test_a_long_sentence_is_an_error_where_newcomers_read() -> None:
    text = " ".join(["Word"] * 41) + "."
    assert found(text, "README.md") == [(1, 1, "House.SentenceLength")]
    assert found(f"Short. {text}", "docs/get-started/index.md") == [(1, 8, "House.SentenceLength")]
    assert found(text) == []
    assert found(" ".join(["word"] * 40) + ".", "README.md") == []


def test_a_later_section_turns_a_rule_off() -> None:
    sections = {"*.md": {"BasedOnStyles": "House"}, "docs/{a,b}.md": {"House.Words": "NO"}}
    assert "House.Words" in {each.name for each in rules_of("docs/c.md", RULES, sections)}
    assert "House.Words" not in {each.name for each in rules_of("docs/b.md", RULES, sections)}


def test_an_unknown_kind_of_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="not supported"):
        prose.rule("House.New", "extends: spelling\nmessage: x\ntokens: []")


def test_report_and_status(tmp_path: Path) -> None:
    assert str(Finding("a.md", 3, 7, "House.Actor", "say it")) == "a.md:3:7: House.Actor: say it"
    command = [sys.executable, "-m", "tools.prose"]
    clean = subprocess.run(
        [*command, "docs/contributing"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (clean.returncode, clean.stdout) == (0, "the prose follows the rules\n")
