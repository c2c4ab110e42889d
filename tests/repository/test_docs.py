"""The generated pages of docs/: fresh, complete and true to the code. `make docs-reference` rewrites them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from agentscope_protocol.config.settings import json_schema
from agentscope_supervisor.cli.main import main
from agentscope_supervisor.domain.errors import MEANING, ErrorCode
from tools.architecture import modules
from tools.docs import http_operations, layered, metrics, openapi, process_life, rooms, settings
from tools.docs.markdown import cell, table
from tools.docs.pages import PAGES, ROOT
from tools.docs.served_routes import served

pytestmark = pytest.mark.as_python  # reads docstrings and sources


@pytest.mark.parametrize("name", PAGES)
def test_page_is_fresh(name: str) -> None:
    path = ROOT / name
    assert path.exists(), f"{name} is missing: run `make docs-reference`"
    assert path.read_text("utf-8") == PAGES[name](), f"{name} is stale: run `make docs-reference`"


@pytest.mark.parametrize("name", PAGES)
def test_page_is_the_same_each_time(name: str) -> None:
    assert PAGES[name]() == PAGES[name]()


def test_cells_hold_no_line_end_and_no_bar() -> None:
    assert cell("a |\n b") == "a \\| b"
    assert table(("x",), [["y"]]) == "| x |\n| --- |\n| y |"


# -- settings ------------------------------------------------------------------------------------


def test_each_key_has_a_description() -> None:
    schema = json_schema()
    keys = list(settings.keys(schema))
    assert len(keys) > 50
    assert [key.path for key in keys if not key.meaning.endswith(".")] == []
    assert [name for name, text, model in settings.sections(schema) if not (text and model)] == []


def test_type_default_and_bounds_of_a_key() -> None:
    found = {key.path: key for key in settings.keys(json_schema())}
    assert found["server.port"].type == "integer from 0 to 65535"
    assert found["server.port"].default == "8080"
    assert found["models.<name>.provider"].default == ""
    assert found["session.backend"].type == "`json`, `redis`"
    assert found["models.<name>.api_key"].type == "secret string, or `null`"
    assert found["server.request_timeout"].applied_by == "reload"
    assert found["server.port"].applied_by == "restart"


def test_a_type_without_words_is_refused() -> None:
    with pytest.raises(ValueError, match="no words"):
        settings.type_of({"type": "tuple"})


# -- HTTP ----------------------------------------------------------------------------------------


def test_the_documented_routes_are_those_that_are_served() -> None:
    documented: dict[str, set[str]] = {}
    is_open: dict[str, bool] = {}
    for operation in http_operations.OPERATIONS:
        for path in (operation.path, *operation.also):
            methods = {"GET", "HEAD"} if operation.method == "GET" else {operation.method}
            documented.setdefault(path, set()).update(methods)
            is_open[path] = operation.is_open
    routes = served()
    assert documented == {path: set(route.methods) for path, route in routes.items()}
    assert is_open == {path: route.is_open for path, route in routes.items()}


def test_each_error_code_has_a_meaning() -> None:
    assert set(MEANING) == set(ErrorCode)
    assert all(text.endswith(".") for text in MEANING.values())


def test_the_openapi_document_is_valid_and_names_each_code() -> None:
    document = openapi.document()
    validate(document)
    assert json.loads(openapi.text()) == document
    schema = document["components"]["schemas"]["Error"]["properties"]["error"]
    assert schema["properties"]["code"]["enum"] == [code.value for code in ErrorCode]


def test_only_open_routes_need_no_token() -> None:
    for operation in http_operations.OPERATIONS:
        assert (ErrorCode.UNAUTHORIZED in openapi.errors_of(operation)) is not operation.is_open


# -- metrics -------------------------------------------------------------------------------------


def test_metrics_have_the_names_that_dashboards_query() -> None:
    names = {row.name for row in metrics.rows()}
    dashboard = (ROOT / "configs" / "grafana-dashboard.json").read_text("utf-8")
    queried = set(re.findall(r"\bagentscope_\w+", dashboard))
    assert queried
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in queried} <= names


# -- rooms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", rooms.PICTURES)
def test_no_import_goes_up_or_around(package: str) -> None:
    row_of = {name: number for number, row in enumerate(rooms.layers()[package]) for name in row}
    found = rooms.edges(package)
    assert found
    assert [edge for edge in found if row_of[edge[0]] >= row_of[edge[1]]] == []


def test_the_graph_of_imports_has_every_module() -> None:
    # A folder without __init__.py is no package: import-linter would not see its modules.
    assert rooms.graph().modules == {name for name, _ in modules()}


def test_each_layers_contract_has_a_picture() -> None:
    assert set(rooms.layers()) == set(rooms.PICTURES)


def test_an_import_that_goes_up_is_drawn_red() -> None:
    rows = [["a"], ["b"]]
    assert "#ff0000" not in layered.picture("fine", rows, [("a", "b")])
    assert "#ff0000" in layered.picture("broken", rows, [("b", "a")])


def test_each_room_says_what_it_owns() -> None:
    assert [room.name for room in rooms.rooms() if not room.owns.endswith((".", ":"))] == []


# -- process life --------------------------------------------------------------------------------


def test_the_deadlines_of_the_picture_are_those_of_the_table() -> None:
    assert set(process_life.DEADLINES) == process_life.expiring()
    described = {key.path for key in settings.keys(json_schema())}
    for deadline in process_life.DEADLINES.values():
        assert f"supervisor.{deadline.split()[0]}" in described


# -- the site ------------------------------------------------------------------------------------


def test_each_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = sorted((ROOT / "docs").rglob("*.md"))
    missing = [str(page.relative_to(ROOT / "docs")) for page in pages if _name(page) not in navigation]
    assert pages
    assert missing == []


def _name(page: Path) -> str:
    return f"{page.relative_to(ROOT / 'docs')}\n"


# -- threat model --------------------------------------------------------------------------------


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "docs" / "security.md").read_text("utf-8")))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_the_manual_page_has_no_errors_of_groff() -> None:
    page = ROOT / "configs/man/agentscope-supervisor.1"
    text = page.read_text("utf-8")
    assert text.count(".SS ") == len(main.commands)
    groff = shutil.which("groff")
    if groff is not None:
        command = [groff, "-man", "-Tutf8", "-ww", str(page)]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert shown.stderr == ""
        plain = re.sub(r"\x1b\[[\d;]*m|.\x08", "", shown.stdout)  # bold, in both ways of groff
        assert "agentscope-supervisor dev [OPTIONS] [PROJECT]" in plain
