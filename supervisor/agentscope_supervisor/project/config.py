"""A project folder as the commands see it: its configuration with what the command line changes.

Reads agentapp.yaml; never imports the App. `cli` uses it for every command that takes PROJECT.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentscope_protocol.config import settings as settings_module
from agentscope_protocol.config.settings import Settings

CONFIG_FILE: Final = "agentapp.yaml"

DEVELOPERS_SOAK: Final = 0.1
"""Seconds, with `--reload` and where the file does not say: an edit is to be tried at once, and the one who
made it looks."""


class ProjectError(Exception):
    """The folder or its file cannot be read; the text is for a person."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line sets over the file; None leaves the file's value."""

    host: str | None = None
    port: int | None = None
    workers: int | str | None = None
    no_platform: bool = False
    console: bool = False  # what `auto` means
    reload: bool = False  # the project is watched, by who is working on it


@dataclass(frozen=True, slots=True)
class Project:
    """A folder with an App. `config` is relative to `folder`."""

    folder: Path
    config: Path = Path(CONFIG_FILE)
    overrides: Overrides = Overrides()

    @property
    def watched(self) -> bool:
        """Whether a change of its files replaces the workers."""
        return self.overrides.reload

    def read_settings(self) -> Settings:
        """The settings of the file as it is now. Raises: ProjectError, SettingsError."""
        text = self._text()
        return self._overridden(settings_module.load(text, source=str(self.config), env=os.environ))

    def read_slots(self) -> dict[str, str]:
        """The model slots of the file, name -> provider, also where its variables are not set.

        Raises: ProjectError, SettingsError.
        """
        return settings_module.load_slots(self._text(), source=str(self.config), env=os.environ)

    def _text(self) -> str:
        path = self.folder / self.config
        if not self.folder.is_dir():
            raise ProjectError(f"{self.folder}: there is no such folder")
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ProjectError(f"{path}: there is no such file; an empty one is enough to begin") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ProjectError(f"{path}: cannot be read: {error}") from None

    def _overridden(self, settings: Settings) -> Settings:
        asked = self.overrides
        server: dict[str, object] = {
            key: value for key, value in (("host", asked.host), ("port", asked.port)) if value is not None
        }
        if asked.console and settings.server.console == "auto":
            server["console"] = "on"
        supervisor: dict[str, object] = {"workers": asked.workers} if asked.workers is not None else {}
        if asked.reload and "supervisor.soak" not in settings_module.chosen_keys(settings):
            supervisor["soak"] = DEVELOPERS_SOAK
        changed: dict[str, object] = {
            "server": settings.server.model_copy(update=server),
            "supervisor": settings.supervisor.model_copy(update=supervisor),
        }
        if asked.no_platform:
            changed["platform"] = None
        return settings.model_copy(update=changed)
