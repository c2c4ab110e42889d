"""A project folder as the commands see it: its configuration, and the options that override it.

Reads agentapp.yaml; never imports the app. Every command that takes PROJECT uses it. The settings themselves
are in `agentscope_protocol.config.settings`.
"""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from agentscope_protocol.config import settings as settings_module
from agentscope_protocol.config import supervisor_secrets
from agentscope_protocol.config.auth_settings import AuthSettings, TokenSettings
from agentscope_protocol.config.settings import Settings

CONFIG_FILE: Final = "agentapp.yaml"
ENV_FILE: Final = ".env"
OFFLINE: Final = "AGENTSCOPE_OFFLINE"
"""Variable: `1` starts the offline model with the instance; see `offline_model`."""

DEVELOPERS_SOAK: Final = 0.1
"""Seconds, with `--reload` if the file does not set `supervisor.soak`: a developer wants to try an edit at
once, and sees whether it works."""


class ProjectError(Exception):
    """The folder or its configuration file cannot be read. The text is meant for the user."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """Values from the command line; None keeps the value of the file."""

    host: str | None = None
    port: int | None = None
    workers: int | str | None = None
    no_platform: bool = False
    console: bool = False  # whether `server.console: auto` means on
    reload: bool = False  # replace the workers when a file changes
    env_file: Path | None = None  # relative to the project; None: no variables from a file
    needs_env_file: bool = False  # whether it is an error if that file does not exist
    interactive: bool = False  # a developer watches the terminal
    opens_browser: bool = False  # whether the console is opened when the instance is ready
    ends_with_terminal: bool = False  # stop the instance when its terminal is closed


@dataclass(frozen=True, slots=True)
class Project:
    """A folder with an app. `config` is relative to `folder`."""

    folder: Path
    config: Path = Path(CONFIG_FILE)
    overrides: Overrides = Overrides()
    withheld: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Variables with secrets of the supervisor: `read_settings` has taken them out of the environment."""
    from_file: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Variables of the `.env` file, which `read_settings` has added to the environment."""

    @property
    def watched(self) -> bool:
        """Whether a changed file of the project replaces the workers."""
        return self.overrides.reload

    def read_settings(self) -> Settings:
        """Return the settings in the file as it is now. Raises: ProjectError, SettingsError.

        The variables of the `.env` file, as it is now, are added to the environment. Variables that only the
        supervisor may know are removed from it, so that no process that starts from now on inherits them.
        """
        text = self._text()
        self._load_env_file()
        env = {**self.withheld, **os.environ}
        settings = self._overridden(settings_module.load(text, source=str(self.config), env=env))
        settings = settings.model_copy(update={"auth": self._with_token_files(settings.auth)})
        for name in supervisor_secrets.variables(text) & os.environ.keys():
            self.withheld[name] = os.environ.pop(name)
        return settings

    def unset_variables(self) -> list[str]:
        """Return the variables that the file refers to and that are not set. Raises: ProjectError."""
        return settings_module.unset_variables(self._text(), env={**self.withheld, **os.environ})

    def is_offline(self) -> bool:
        """Return whether the offline model answers instead of a provider, by the environment or `.env`."""
        return {**self._env_file_variables(os.environ), **os.environ}.get(OFFLINE) == "1"

    def _load_env_file(self) -> None:
        own = {**self.withheld, **os.environ}
        for name in self.from_file:
            own.pop(name, None)
        found = self._env_file_variables(own)
        for name in self.from_file.keys() - found.keys():
            os.environ.pop(name, None)
            self.withheld.pop(name, None)
        self.from_file.clear()
        self.from_file.update(found)
        os.environ.update(found)

    def _env_file_variables(self, env: Mapping[str, str]) -> dict[str, str]:
        """The variables in the `.env` file that `env` does not have."""
        name = self.overrides.env_file
        if name is None or not (self.overrides.needs_env_file or (self.folder / name).exists()):
            return {}
        from agentscope_supervisor.project import env_file  # a library that production does not need

        try:
            return env_file.read(self.folder / name, env)
        except env_file.EnvFileError as error:
            raise ProjectError(str(error)) from None
        except FileNotFoundError:
            raise ProjectError(f"{self.folder / name}: no such file (--env-file)") from None

    def read_slots(self) -> dict[str, str]:
        """Return the model slots in the file, name -> provider. Variables need not be set.

        Raises: ProjectError, SettingsError.
        """
        return settings_module.load_slots(self._text(), source=str(self.config), env=os.environ)

    def _text(self) -> str:
        path = self.folder / self.config
        try:
            return path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise ProjectError(_missing(self.folder, path)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ProjectError(f"{path}: cannot be read: {error}") from None

    def read_token(self) -> tuple[str | None, list[str]]:
        """Return the token of clients in the file, and the unset variables that it refers to.

        No other key of the file is checked, and no other variable need be set. Raises: ProjectError.
        """
        env = {**os.environ, **self.withheld}
        return settings_module.load_auth_token(self._text(), env={**self._env_file_variables(env), **env})

    def _with_token_files(self, auth: AuthSettings) -> AuthSettings:
        """The section with the tokens that are in files. Raises: ProjectError."""
        if all(each.token_file is None for each in auth.tokens):
            return auth
        tokens = [self._with_token_file(each) for each in auth.tokens]
        try:
            return AuthSettings(tokens=tokens)
        except ValidationError as error:  # a file has the same token as another entry
            reasons = "; ".join(str(each["msg"]) for each in error.errors())
            raise ProjectError(f"{self.config}: auth: {reasons}") from None

    def _with_token_file(self, token: TokenSettings) -> TokenSettings:
        if token.token_file is None:
            return token
        path = self.folder / token.token_file
        try:
            text = path.read_text(encoding="ascii").removesuffix("\n")
            return TokenSettings.model_validate({"name": token.name, "token": text, "scopes": token.scopes})
        except OSError as error:
            problem = error.strerror
        except ValueError:  # of pydantic too
            problem = "must be one line of visible ASCII characters, without spaces"
        raise ProjectError(f"{self.config}: auth.tokens, {token.name!r}: token_file {path}: {problem}")

    def _overridden(self, settings: Settings) -> Settings:
        overrides = self.overrides
        server: dict[str, object] = {
            key: value
            for key, value in (("host", overrides.host), ("port", overrides.port))
            if value is not None
        }
        if overrides.console and settings.server.console == "auto":
            server["console"] = "on"
        supervisor: dict[str, object] = (
            {"workers": overrides.workers} if overrides.workers is not None else {}
        )
        if overrides.reload and "supervisor.soak" not in settings_module.chosen_keys(settings):
            supervisor["soak"] = DEVELOPERS_SOAK
        changed: dict[str, object] = {
            "server": settings.server.model_copy(update=server),
            "supervisor": settings.supervisor.model_copy(update=supervisor),
        }
        if overrides.no_platform:
            changed["platform"] = None
        return settings.model_copy(update=changed)


def is_archive(path: Path) -> bool:
    """Return whether PROJECT is a file. Raises: ProjectError if it is a file of a project, no archive."""
    if path.suffix in (".py", ".yaml", ".yml") and path.is_file():
        raise ProjectError(f"{path} is a file; use its folder as PROJECT: {path.parent}")
    return path.is_file()


def _missing(folder: Path, path: Path) -> str:
    """Why there is no configuration at `path`, and what to do."""
    other = path.with_suffix(".yml")
    if path.suffix == ".yaml" and other.is_file():
        return f"{path}: no such file; rename {other.name} to {path.name}"
    if not folder.is_dir():
        what = f"{folder}: no such folder"
    elif path.name != CONFIG_FILE:
        return f"{path}: no such file"
    elif (folder / "app.py").is_file():
        return f"{path}: no such file; an empty file is a valid configuration: touch {shlex.quote(str(path))}"
    else:
        what = f"{folder}: not a project, because it has no {CONFIG_FILE}"
    usable = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    target = folder if usable else folder / "my_app"
    return f"{what}; make a project with: agentscope-supervisor new {shlex.quote(str(target))}"
