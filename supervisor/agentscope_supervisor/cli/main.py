"""The commands. Each reads what it needs, does its work elsewhere, and turns the outcome into an exit status.

Exit statuses: 0 stopped as asked, 1 unexpected, 2 wrong usage, 75 worth another try (port in use, runtime
directory), 78 the configuration or the App cannot work.
"""

import asyncio
import json
import logging
import platform
import shlex
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata, resources
from pathlib import Path
from typing import Any, NoReturn

import click

from agentscope_protocol.config import settings as settings_module
from agentscope_protocol.config.setting_types import MAX_WORKERS
from agentscope_protocol.config.settings import SettingsError
from agentscope_supervisor import FORM, __version__
from agentscope_supervisor.cli import instance_commands, launch
from agentscope_supervisor.project import stubs
from agentscope_supervisor.project.config import CONFIG_FILE, Overrides, Project, ProjectError
from agentscope_supervisor.system import instance_dir, log_setup
from agentscope_supervisor.workers.fleet import EX_CONFIG

log = logging.getLogger(__name__)

Command = Callable[..., Any]


class WorkersType(click.ParamType[int | str]):
    """A number of workers, or auto."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "auto":
            return "auto"
        return int(click.IntRange(1, MAX_WORKERS).convert(value, param, ctx))


def _project_argument(command: Command) -> Command:
    return click.argument("project", type=click.Path(path_type=Path), default=Path())(command)


def _config_option(command: Command) -> Command:
    text = f"Configuration, relative to PROJECT.  [default: {CONFIG_FILE}]"
    option = click.option("--config", type=click.Path(path_type=Path), default=Path(CONFIG_FILE), help=text)
    return option(command)


def _run_options(command: Command) -> Command:
    """What `agentscope run` and `agentscope-supervisor start` share."""
    for decorate in (
        click.option(
            "--log-level",
            type=click.Choice(log_setup.LEVELS),
            default="info",
            show_default=True,
            help="Log this and what is graver.",
        ),
        click.option("--no-platform", is_flag=True, help="No heartbeats, whatever the file says."),
        click.option("--reload", is_flag=True, help="Watch PROJECT: a change of it replaces the workers."),
        _config_option,
        click.option("--port", type=click.IntRange(0, 65535), help="0: any free port. Wins over the file."),
        _project_argument,
    ):
        command = decorate(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(f"{__version__} ({FORM})", prog_name="agentscope-supervisor")
def main() -> None:
    """Host AgentScope apps: many sessions, streamed answers, on worker processes that may fail."""


@main.command()
@_run_options
@click.option("--host", help="Address to listen on. Wins over the file.")
@click.option(
    "--workers",
    metavar="N|auto",
    type=WorkersType(),
    help="Worker processes; auto: one for each CPU. Wins over the file.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="For people or for programs.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Runs and idempotency keys.  [default: $STATE_DIRECTORY, else $XDG_STATE_HOME, else /var/lib as"
    " root, else ~/.local/state]",
)
@instance_commands.instance_options
def start(
    project: Path,
    port: int | None,
    config: Path,
    no_platform: bool,
    reload: bool,
    log_level: str,
    host: str | None,
    workers: int | str | None,
    log_format: log_setup.LogFormat,
    name: str | None,
    runtime_dir: Path | None,
    state_dir: Path | None,
) -> NoReturn:
    """Host the app in PROJECT until told to stop.

    PROJECT is a folder, by default this one, or an archive that `pack` made.
    """
    log_setup.set_up(log_format, log_level)
    overrides = Overrides(host, port, workers, no_platform, reload=reload)
    launch.start(Project(project.resolve(), config, overrides), name, runtime_dir, state_dir)


main.add_command(start, "run")
for each in instance_commands.COMMANDS:
    main.add_command(each)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(f"{__version__} ({FORM})", prog_name="agentscope-supervisor")
def developer() -> None:
    """Run AgentScope apps on this machine. All commands: agentscope-supervisor."""


@developer.command("run")
@_run_options
def run(
    project: Path, port: int | None, config: Path, no_platform: bool, reload: bool, log_level: str
) -> NoReturn:
    """Run the app in PROJECT with one worker.

    PROJECT is a folder, by default this one.
    """
    log_setup.set_up("text", log_level)
    overrides = Overrides(port=port, workers=1, no_platform=no_platform, console=True, reload=reload)
    launch.start(Project(project.resolve(), config, overrides), None, None, None)


def agentscope() -> None:
    """Entry of the command `agentscope`, a name that agentscope-runtime installs too.

    With that package here, and no project of ours named, the command is handed to it.
    """
    if not _is_ours(sys.argv[1:]):
        for entry in metadata.entry_points(group="console_scripts", name="agentscope"):
            if entry.dist is not None and entry.dist.name != "agentscope-supervisor":
                sys.exit(entry.load()())
    developer()


def _is_ours(arguments: list[str]) -> bool:
    words = [Path(word) for word in arguments[1:] if not word.startswith("-")]
    return arguments[:1] == ["run"] and any((folder / CONFIG_FILE).exists() for folder in [Path(), *words])


@main.command()
@_project_argument
@_config_option
def check(project: Path, config: Path) -> NoReturn:
    """Check configuration, requirements and app.py; start nothing. Exit status 0 or 78.

    PROJECT is a folder, by default this one, or an archive that `pack` made.
    """
    folder = project.resolve()
    with tempfile.TemporaryDirectory(prefix=f"{instance_dir.PROGRAM}-") as room:
        name = folder.name
        if folder.is_file():
            folder, name = launch.extracted(folder, Path(room))
        launch.checked(Project(folder, config))
        click.echo(f"{name}: all is well")
    sys.exit(0)


@main.command()
@_project_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The archive.  [default: the folder's name and .tar.gz, in this folder]",
)
def pack(project: Path, output: Path | None) -> None:
    """Make one archive of PROJECT, to upload and start elsewhere.

    A .tar.gz with code, configuration, requirements and a manifest with their hashes; `start` and `check`
    take it in place of a folder. Sessions, environments, caches, .env and keys stay out. Exit status 78, and
    no archive, where `check` refuses the project, or where agentapp.yaml holds a secret in plain text.
    """
    from agentscope_supervisor.project import archive_write as packing
    from agentscope_supervisor.project.archive_rules import literal_secrets

    folder = project.resolve()
    settings = launch.checked(Project(folder))
    secrets = literal_secrets((folder / CONFIG_FILE).read_text("utf-8"))
    if secrets:
        launch.fail(EX_CONFIG, f"nothing was packed\n{SettingsError(CONFIG_FILE, secrets)}")
    name = instance_dir.name_of(None, folder)
    versions = {"agentscope-supervisor": __version__, "python": platform.python_version()}
    if settings.supervisor.python is None:  # else it is that of another environment
        versions["agentscope"] = metadata.version("agentscope")
    target = output or Path(name + packing.SUFFIX)
    try:
        made = packing.pack(folder, target, name=name, versions=versions, save_dir=settings.session.save_dir)
    except packing.PackError as error:
        launch.fail(EX_CONFIG, f"nothing was packed\n{error}")
    except OSError as error:
        raise click.ClickException(f"nothing was packed: {error}") from None
    for reason, paths in made.left_out.items():
        click.echo(f"left out ({reason}): {', '.join(paths)}")
    click.echo(f"made {target}: {len(made.manifest.files)} files, {made.size} bytes, sha256 {made.sha256}")


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
def new(path: Path) -> None:
    """Make a new project in PATH that runs offline."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise click.UsageError(f"{path} exists and is not an empty folder")
    path.mkdir(parents=True, exist_ok=True)
    for source in (resources.files("agentscope_supervisor.project") / "template").iterdir():
        (path / source.name.removesuffix(".template")).write_text(source.read_text("utf-8"), "utf-8")
    click.echo(f"made {path}; run it with\n\n    agentscope-supervisor run {shlex.quote(str(path))}\n")


@main.command()
def schema() -> None:
    """Print the JSON Schema of agentapp.yaml."""
    click.echo(json.dumps(settings_module.json_schema(), indent=2))


@main.command()
@_project_argument
@_config_option
def types(project: Path, config: Path) -> None:
    """Tell type checkers and editors the model slots of PROJECT.

    Writes stub files into its folder `typings`.
    """
    folder = project.resolve()
    try:
        written = stubs.write(folder, Project(folder, config).read_slots())
    except (ProjectError, SettingsError) as error:
        launch.fail(EX_CONFIG, f"the configuration cannot be used\n{error}")
    except (stubs.NotOurs, OSError) as error:
        raise click.ClickException(str(error)) from None
    for path in written:
        click.echo(f"made {path.relative_to(folder)}")
    if not stubs.mypy_knows(folder):
        click.echo(
            "pyright, and editors that use it, find them by themselves; mypy with this in pyproject.toml:"
            '\n\n    [tool.mypy]\n    mypy_path = "$MYPY_CONFIG_FILE_DIR/typings"\n'
        )


@main.command(options_metavar="[PROJECT] -s SESSION TEXT")
@click.argument("words", nargs=-1, required=True, metavar="")
@click.option("-s", "--session", required=True, help="Session id; the same one goes on with its history.")
@_config_option
@instance_commands.instance_options
def invoke(
    words: tuple[str, ...], session: str, config: Path, name: str | None, runtime_dir: Path | None
) -> None:
    """Send TEXT to a running instance and print the answer.

    The instance of PROJECT (a folder, by default this one), or the only one that runs.
    """
    if len(words) > 2:
        raise click.UsageError("give the text as one argument, in quotes")
    project, text = Path(words[0] if len(words) == 2 else "."), words[-1]
    import aiohttp

    from agentscope_supervisor.cli import invoke_client

    address = instance_commands.find(name, runtime_dir, project)
    token = launch.settings_of(Project(Path(address.project), config)).server.auth_token

    async def converse() -> None:
        secret = token.get_secret_value() if token is not None else None
        async for part in invoke_client.invoke(address.url, session, text, secret):
            click.echo(part, nl=False)
        click.echo()

    try:
        asyncio.run(converse())
    except invoke_client.Answered as error:
        raise click.ClickException(str(error)) from None
    except aiohttp.ClientError as error:
        raise click.ClickException(f"the instance {address.name!r} does not answer: {error}") from None
