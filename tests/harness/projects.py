"""Projects for tests: copies of tests/apps with their own configuration, and projects from texts."""

import json
import shutil
import textwrap
from pathlib import Path
from typing import Any, Final

APPS: Final = Path(__file__).parent.parent / "apps"

Section = dict[str, Any]

QUICK_STOP: Final[Section] = {"supervisor": {"drain_timeout": 5, "stop_timeout": 2}}
"""Defaults of every instance in a test: a failed test must not wait for its turns."""


def scripted(folder: Path, **sections: Section) -> Path:
    """Copy tests/apps/scripted to `folder`, which must not exist, with these sections in agentapp.yaml."""
    return copied("scripted", folder, **sections)


def copied(app: str, folder: Path, **sections: Section) -> Path:
    """Copy another app of tests/apps in the same way."""
    shutil.copytree(APPS / app, folder, ignore=shutil.ignore_patterns("__pycache__"))
    configure(folder, **sections)
    return folder


def told(folder: Path, **sections: Section) -> Path:
    """The same as `scripted`, with an app that is notified of idle sessions."""
    copied("told", folder, **sections)
    shutil.copy(APPS / "scripted" / "app.py", folder / "scripted.py")
    return folder


def configure(folder: Path, **sections: Section) -> None:
    """Write agentapp.yaml."""
    merged = {name: {**QUICK_STOP.get(name, {}), **sections.get(name, {})} for name in QUICK_STOP | sections}
    # JSON is valid YAML, so no YAML writer is needed.
    (folder / "agentapp.yaml").write_text(json.dumps(merged, indent=2), "utf-8")


def hooks(
    folder: Path, *, startup: list[Section] | None = None, shutdown: list[Section] | None = None
) -> None:
    """Set the steps of the scripted app in on_startup and on_shutdown."""
    for name, steps in (("startup", startup), ("shutdown", shutdown)):
        if steps is not None:
            (folder / f"{name}.json").write_text(json.dumps(steps), "utf-8")


def written(folder: Path, app: str | None, config: str = "") -> Path:
    """Make a project from these texts. `app` None: without app.py."""
    folder.mkdir()
    if app is not None:
        (folder / "app.py").write_text(textwrap.dedent(app), "utf-8")
    (folder / "agentapp.yaml").write_text(textwrap.dedent(config), "utf-8")
    return folder


def journal(path: Path) -> list[dict[str, Any]]:
    """Return the notes of the turns that name this file in their metadata, in order."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
