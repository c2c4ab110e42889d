"""README and the other pages: tables match the code, links resolve, the tutorial has short sentences."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from agentscope_supervisor.domain.errors import RETRY_LATER, STATUS
from agentscope_supervisor.workers.reloadable_keys import RELOADABLE

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
README: Final = ROOT / "README.md"
PAGES: Final = (README, *sorted(DOCS.rglob("*.md")))
PLAIN: Final = (README, *sorted((DOCS / "get-started").glob("*.md")))

MAX_README: Final = 6 * 1024  # bytes
MAX_SENTENCE: Final = 40  # words


def section(page: Path, heading: str) -> str:
    """The text below a heading, to the next one."""
    text = page.read_text("utf-8") + "\n# End\n"
    found = list(re.finditer(r"^#+ (.*)$", text, re.MULTILINE))
    (body,) = [text[one.end() : two.start()] for one, two in pairwise(found) if one[1] == heading]
    return body


def names(text: str) -> list[str]:
    return re.findall(r"`([^`]*)`", text)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as forges and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def sentences(page: Path) -> list[str]:
    """The sentences of the paragraphs, list items and table cells of a page."""
    blocks = re.split(r"\n\s*\n|\n(?=[-|#]|\d+\. )|\|", without_code(page.read_text("utf-8")))
    plain = (re.sub(r"\]\([^)]*\)", "]", block) for block in blocks)
    return [each for block in plain for each in re.split(r"(?<=[.!?:])\s", block)]


def test_table_of_errors() -> None:
    text = section(DOCS / "concepts" / "failure-model.md", "Error codes")
    rows = re.findall(r"^\| (\d{3}) \| ([^|]*) \| ([^|]*) ?\|$", text, re.MULTILINE)
    documented = [
        (code, int(status), "Retry-After" in when) for status, codes, when in rows for code in names(codes)
    ]
    assert sorted(documented) == sorted((code.value, STATUS[code], code in RETRY_LATER) for code in STATUS)


def test_keys_that_a_reload_takes_over() -> None:
    text = section(DOCS / "guides" / "reload.md", "What a reload changes")
    rows = re.findall(r"^\| `(\w+)`: ([^|]*) \|", text, re.MULTILINE)
    documented = [f"{part}.{key}" for part, keys in rows for key in names(keys)]
    assert sorted(documented) == sorted(RELOADABLE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]*)\)", without_code(page.read_text("utf-8")))
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} names no file"
        if anchor:
            assert anchor in anchors(target), f"{link} names no heading"


def test_readme_is_short() -> None:
    assert len(README.read_bytes()) <= MAX_README


@pytest.mark.parametrize("page", PLAIN, ids=lambda page: str(page.relative_to(ROOT)))
def test_sentences_are_short(page: Path) -> None:
    long = [each for each in sentences(page) if len(each.split()) > MAX_SENTENCE]
    assert long == []
