"""The generated files of docs/ and configs/, each with the function that returns its text."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tools.docs import cli, http_api, man, metrics, openapi, process_life, rooms, runtime_api, settings

ROOT: Final = Path(__file__).parents[2]

PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "docs/reference/settings.md": settings.text,
    "docs/reference/http-api.md": http_api.text,
    "docs/reference/openapi.json": openapi.text,
    "supervisor/agentscope_supervisor/web/openapi.json": openapi.packaged,
    "docs/reference/cli.md": cli.text,
    "configs/man/agentscope-supervisor.1": man.text,
    "docs/reference/metrics.md": metrics.text,
    "docs/reference/runtime-api.md": runtime_api.text,
    "docs/concepts/process-life.svg": process_life.picture,
    "docs/contributing/rooms.md": rooms.text,
    **rooms.pictures(),
}


def fresh() -> dict[str, str]:
    """The text of each generated file, by its path below the repository's root."""
    return {name: text() for name, text in PAGES.items()}
