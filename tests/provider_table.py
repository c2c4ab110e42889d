"""`make provider-table`: the table of providers in docs/, from calls that were made for it.

Runs tests/integration/test_providers.py with each of the given interpreters, one for each major of
AgentScope, and writes what its calls showed on the wire between the markers in
docs/guides/agents-and-models.md. A call that failed is a cross, and the exit status is 1 then.
"""

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "guides" / "agents-and-models.md"
BEGIN, END = "<!-- provider table: make provider-table -->", "<!-- end of provider table -->"
WAYS = ("stream", "whole")

Cell = dict[str, str]


def main() -> int:
    cells = [cell for interpreter in sys.argv[1:] for cell in run(interpreter)]
    rows = table(cells)
    text = PAGE.read_text("utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{rows}\n{END}{rest.split(END)[1]}", "utf-8")
    print(rows)
    return 0 if all("events" in cell for cell in cells) else 1


def run(interpreter: str) -> list[Cell]:
    """The calls over HTTP with one interpreter; a cell for each, with what it showed if it passed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [interpreter, "-m", "pytest", "-q", "tests/integration/test_providers.py"]
        command += ["-k", "test_a_call_over_http", "-o", "junit_family=xunit1", f"--junitxml={report}"]
        subprocess.run(command, cwd=ROOT, check=False, stdout=sys.stderr)
        cases = ElementTree.parse(report).getroot().iter("testcase")
        return [cell(case, interpreter) for case in cases]


def cell(case: ElementTree.Element, interpreter: str) -> Cell:
    """What a test recorded; of one that failed, only the names that tell which it was."""
    seen = {each.get("name", ""): each.get("value", "") for each in case.iter("property")}
    if "events" not in seen:
        way, provider = case.get("name", "").rstrip("]").split("[")[1].split("-")
        seen = {"provider": provider, "way": way, "agentscope": f"of {interpreter}"}
    return seen


def table(cells: list[Cell]) -> str:
    """Markdown, a row for each provider and major."""
    lines = [
        "| provider | AgentScope | path asked | key in | `generate_kwargs` on the wire | stream | whole |",
        "|---|---|---|---|---|---|---|",
    ]
    rows: dict[tuple[str, str], dict[str, Cell]] = {}
    for each in cells:
        rows.setdefault((each["provider"], each["agentscope"]), {})[each["way"]] = each
    for (provider, version), ways in rows.items():
        shown = next((each for each in ways.values() if "events" in each), {})
        marks = [f"✓ {ways[way]['events']}" if "events" in ways.get(way, {}) else "✗" for way in WAYS]
        where = shown.get("url", "").replace(":streamGenerateContent", ":…").replace(":generateContent", ":…")
        kwargs = ", ".join(place.split(".")[-1] for place in shown.get("kwargs", "").split(", "))
        row = [provider, version, f"`{where}`", f"`{shown.get('key', '')}`", kwargs, *marks]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
