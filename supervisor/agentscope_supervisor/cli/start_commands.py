"""The commands that start an instance: `start`, `run` and `dev`.

They take the same options and differ in their defaults only: see `Form`. `launch` does the work.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from agentscope_protocol.config.setting_types import MAX_WORKERS
from agentscope_supervisor.cli import instance_commands, launch
from agentscope_supervisor.project.config import CONFIG_FILE, ENV_FILE, Overrides, Project
from agentscope_supervisor.system import log_setup

Command = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Form:
    """The defaults of a command that starts an instance."""

    console: bool = False  # whether `server.console: auto` means on
    env_file: bool = False  # whether the variables in `.env` are set
    workers: int | None = None  # None: those of the file
    reload: bool = False
    ends_with_terminal: bool = False


PRODUCTION: Final = Form()
TRIAL: Final = Form(console=True, env_file=True)
DEVELOPMENT: Final = Form(console=True, env_file=True, workers=1, ends_with_terminal=True)
DEV: Final = replace(DEVELOPMENT, reload=True)


class WorkersType(click.ParamType[int | str]):
    """A number of workers, or `auto`."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "auto":
            return "auto"
        return int(click.IntRange(1, MAX_WORKERS).convert(value, param, ctx))


def project_argument(command: Command) -> Command:
    return click.argument("project", type=click.Path(path_type=Path), default=Path())(command)


def config_option(command: Command) -> Command:
    text = f"Configuration file, relative to PROJECT.  [default: {CONFIG_FILE}]"
    option = click.option("--config", type=click.Path(path_type=Path), default=Path(CONFIG_FILE), help=text)
    return option(command)


def env_file_option(default: str) -> Callable[[Command], Command]:
    text = (
        "File with variables, relative to PROJECT. Variables of the environment keep their values."
        f"  [default: {default}]"
    )
    return click.option("--env-file", type=click.Path(path_type=Path), help=text)


_NO_OPEN: Final = "Do not open the console in a browser. It is opened when a terminal reloads the project."


def _options(form: Form) -> list[Callable[[Command], Command]]:
    directory = click.Path(path_type=Path, file_okay=False)
    reload = click.option(
        "--reload", is_flag=True, help="Watch PROJECT, and replace the workers when a file changes."
    )
    return [
        project_argument,
        click.option(
            "--port",
            type=click.IntRange(0, 65535),
            help="Port to listen on; 0 selects a free port. Overrides the file.",
        ),
        config_option,
        *([] if form.reload else [reload]),
        *([click.option("--no-open", is_flag=True, help=_NO_OPEN)] if form.console else []),
        env_file_option(f"{ENV_FILE}, if it exists" if form.env_file else "none"),
        click.option("--no-platform", is_flag=True, help="Ignore the section `platform` of the file."),
        click.option(
            "--log-level",
            type=click.Choice(log_setup.LEVELS),
            default="info",
            show_default=True,
            help="Minimum log level.",
        ),
        click.option("--host", help="Address to listen on. Overrides the file."),
        click.option(
            "--workers",
            metavar="N|auto",
            type=WorkersType(),
            default=form.workers,
            show_default=form.workers is not None,
            help="Number of worker processes; auto: one per CPU. Overrides the file.",
        ),
        click.option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            help="Format of log lines.",
        ),
        click.option(
            "--state-dir",
            type=directory,
            help="Folder for runs, idempotency keys and extracted archives.  [default: $STATE_DIRECTORY, else"
            " $XDG_STATE_HOME, else /var/lib as root, else ~/.local/state]",
        ),
        instance_commands.instance_options("name of the project folder or of the archive's project"),
    ]


def _command(name: str, form: Form, help_text: str) -> click.Command:
    def command(
        project: Path,
        port: int | None,
        config: Path,
        env_file: Path | None,
        no_platform: bool,
        log_level: str,
        host: str | None,
        workers: int | str | None,
        log_format: log_setup.LogFormat,
        name: str | None,
        runtime_dir: Path | None,
        state_dir: Path | None,
        reload: bool = form.reload,
        no_open: bool = False,
    ) -> NoReturn:
        log_setup.set_up(log_format, log_level)
        overrides = Overrides(
            host,
            port,
            workers,
            no_platform,
            console=form.console,
            reload=reload,
            interactive=form.console and reload,
            opens_browser=not no_open,
            env_file=env_file or (Path(ENV_FILE) if form.env_file else None),
            needs_env_file=env_file is not None,
            ends_with_terminal=form.ends_with_terminal,
        )
        launch.start(Project(project.resolve(), config, overrides), name, runtime_dir, state_dir)

    decorated: Command = command
    for option in reversed(_options(form)):
        decorated = option(decorated)
    return click.command(name, help=help_text)(decorated)


_PROJECT: Final = """
PROJECT is a project folder, by default the current one, or an archive that `pack` made.
"""

_SIGNALS: Final = """
SIGTERM lets running turns finish and stops the instance; a second SIGTERM stops it at once. SIGHUP does
what the command `reload` does. Exit status: 0 after a stop, 75 after a temporary failure such as a port
in use, 78 if the configuration or the app cannot work.
"""

start: Final = _command(
    "start", PRODUCTION, f"Host the app in PROJECT until it is stopped.\n{_PROJECT}{_SIGNALS}"
)

run: Final = _command(
    "run",
    TRIAL,
    f"""Host the app in PROJECT, with the console and .env.
{_PROJECT}
The same as `start`, with two other defaults: the console is on unless `server.console` is off, and variables
come from the file .env of the project too.
{_SIGNALS}""",
)

developers_run: Final = _command(
    "run",
    DEVELOPMENT,
    f"""Run the app in PROJECT with one worker, the console and .env.
{_PROJECT}
Ctrl-C stops the instance, and so does closing its terminal.
""",
)

dev: Final = _command(
    "dev",
    DEV,
    f"""Run the app in PROJECT, with a new worker after each edit.
{_PROJECT}
The same as `agentscope run --reload`. On a terminal, the console opens in the browser when the app is ready,
and keys work: o opens the console, r replaces the worker, c clears the screen, q quits. A first start that
fails waits for the next change.
""",
)

COMMANDS: Final = (dev, start, run)
