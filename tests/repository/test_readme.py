"""What README says in tables of codes and keys is what the code has."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Final

from agentscope_supervisor.domain.errors import RETRY_LATER, STATUS
from agentscope_supervisor.workers.reloadable_keys import TAKEN_OVER

README: Final = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def section(heading: str) -> str:
    """The text below a heading, to the next one."""
    found = list(re.finditer(r"^#+ (.*)$", README, re.MULTILINE))
    (text,) = [README[one.end() : two.start()] for one, two in pairwise(found) if one[1] == heading]
    return text


def test_table_of_errors() -> None:
    rows = re.findall(r"^\| (\d{3}) \| ([^|]*) \| ([^|]*) ?\|$", section("HTTP"), re.MULTILINE)
    told = [
        (code, int(status), "Retry-After" in when) for status, codes, when in rows for code in names(codes)
    ]
    assert sorted(told) == sorted((code.value, STATUS[code], code in RETRY_LATER) for code in STATUS)


def test_keys_that_a_reload_takes_over() -> None:
    rows = re.findall(r"^\| `(\w+)`: ([^|]*) \|", section("What a reload changes"), re.MULTILINE)
    told = [f"{part}.{key}" for part, keys in rows for key in names(keys)]
    assert sorted(told) == sorted(TAKEN_OVER)


def test_links_to_sections() -> None:
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#([^)]*)\)", README)
    assert links
    assert set(links) <= anchors


def names(text: str) -> list[str]:
    return re.findall(r"`([^`]*)`", text)
