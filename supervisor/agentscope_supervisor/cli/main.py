"""The commands of `agentscope-supervisor` and `agentscope`.

A command reads its arguments, calls other rooms for the work, and turns the outcome into an exit status: 0
success, 1 unexpected error, 2 wrong usage, 75 temporary failure (port in use, runtime directory not usable),
78 the configuration or the app cannot work. `start_commands` has the commands that start an instance,
`instance_commands` those for a running one.
"""

import json
import os
import platform
import shlex
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import click

from agentscope_protocol.config import settings as settings_module
from agentscope_protocol.config.settings import SettingsError
from agentscope_supervisor import FORM, __version__
from agentscope_supervisor.cli import instance_commands, launch, machine_commands, start_commands
from agentscope_supervisor.cli.formatting import Commands, shown
from agentscope_supervisor.domain.printable import printable
from agentscope_supervisor.project import new_project, stubs
from agentscope_supervisor.project.config import CONFIG_FILE, ENV_FILE, Overrides, Project, ProjectError
from agentscope_supervisor.system import instance_dir, standard_streams
from agentscope_supervisor.workers.fleet import EX_CONFIG


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(f"{__version__} ({FORM})", prog_name="agentscope-supervisor")
def main() -> None:
    """Host AgentScope apps: sessions and streamed answers over HTTP, on supervised worker processes."""
    standard_streams.restore()


for each in [*start_commands.COMMANDS, *instance_commands.COMMANDS, *machine_commands.COMMANDS]:
    main.add_command(each)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(f"{__version__} ({FORM})", prog_name="agentscope-supervisor")
def developer() -> None:
    """Run AgentScope apps on this machine.

    For all other commands see `agentscope-supervisor --help`.
    """
    standard_streams.restore()


developer.add_command(start_commands.developers_run)


def agentscope() -> None:
    """Entry point of the command `agentscope`, a name that the package agentscope-runtime installs too.

    If that package is installed, and the arguments name no project of ours, it gets the command.
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
@start_commands.project_argument
@start_commands.config_option
@start_commands.env_file_option(f"{ENV_FILE}, if it exists")
def check(project: Path, config: Path, env_file: Path | None) -> NoReturn:
    """Check PROJECT without starting it.

    Checks agentapp.yaml and its variables, the requirements and app.py. PROJECT is a project folder, by
    default the current one, or an archive that `pack` made. Exit status: 0 if the project can start, 78 if it
    cannot.
    """
    folder = project.resolve()
    with tempfile.TemporaryDirectory(prefix=f"{instance_dir.PROGRAM}-") as room:
        name = folder.name
        if launch.is_archive(folder):
            folder, name = launch.extracted(folder, Path(room))
        variables = Overrides(env_file=env_file or Path(ENV_FILE), needs_env_file=env_file is not None)
        checked = Project(folder, config, variables)
        launch.checked(checked)
        if checked.from_file:
            names = ", ".join(sorted(checked.from_file))
            click.echo(
                f"variables from {variables.env_file}, which `start` reads with --env-file only: {names}"
            )
        click.echo(printable(f"{name}: OK"))
    sys.exit(0)


@main.command()
@start_commands.project_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.  [default: name of the project folder with .tar.gz, in the current folder]",
)
def pack(project: Path, output: Path | None) -> None:
    """Pack PROJECT into an archive for deployment.

    The archive is a .tar.gz with the code, the configuration, the requirements and a manifest with a hash of
    each file. `start` and `check` accept it in place of a folder. Sessions, environments, caches, .env files
    and keys are left out. Exit status: 78, and no archive is made, if `check` refuses the project or
    agentapp.yaml contains a secret in plain text.
    """
    from agentscope_supervisor.project import archive_write
    from agentscope_supervisor.project.archive_rules import literal_secrets

    folder = project.resolve()
    settings = launch.checked(Project(folder, overrides=Overrides(env_file=Path(ENV_FILE))))
    secrets = literal_secrets((folder / CONFIG_FILE).read_text("utf-8"))
    if secrets:
        launch.fail(EX_CONFIG, f"no archive was made\n{SettingsError(CONFIG_FILE, secrets)}")
    name = instance_dir.name_of(None, folder)
    versions = {"agentscope-supervisor": __version__, "python": platform.python_version()}
    if settings.supervisor.python is None:  # otherwise the workers use the version of another environment
        versions["agentscope"] = metadata.version("agentscope")
    target = output or Path(name + archive_write.SUFFIX)
    save_dir = settings.session.save_dir
    try:
        packed = archive_write.pack(folder, target, name=name, versions=versions, save_dir=save_dir)
    except archive_write.PackError as error:
        launch.fail(EX_CONFIG, f"no archive was made\n{error}")
    except OSError as error:
        raise click.ClickException(f"no archive was made: {error}") from None
    for reason, paths in packed.left_out.items():
        click.echo(printable(f"left out ({reason}): {', '.join(paths)}"))
    files = len(packed.manifest.files)
    click.echo(f"created {target}: {files} files, {packed.size} bytes, sha256 {packed.sha256}")


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--template",
    type=click.Choice(list(new_project.TEMPLATES)),
    help=f"Kind of project. Without this option, a terminal asks.  [default: {new_project.DEFAULT}]",
)
@click.option(
    "--offline/--online",
    default=None,
    help="Answer with the bundled model server instead of a model.  [default: offline if OPENAI_API_KEY is"
    " not set]",
)
def new(path: Path, template: str | None, offline: bool | None) -> None:
    """Create a project in PATH, with tests.

    PATH must be a new or an empty folder. The code is for the major of AgentScope that is installed. An
    offline project answers without a network and without a key; its .env has the switch.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise click.UsageError(f"{path} exists and is not an empty folder")
    if template is None and sys.stdin.isatty() and sys.stdout.isatty():
        for name, each in new_project.TEMPLATES.items():
            click.echo(f"  {name:10}{each.purpose}")
        choice = click.Choice(list(new_project.TEMPLATES))
        template = click.prompt("Template", default=new_project.DEFAULT, type=choice, show_choices=False)
    template = template or new_project.DEFAULT
    if offline is None:
        offline = not os.environ.get("OPENAI_API_KEY")
    major = metadata.version("agentscope").partition(".")[0]
    files = new_project.write(path, template, major, offline=offline)
    quoted = shlex.quote(str(path))
    model = (
        f"It answers without a model; {path / '.env'} changes that."
        if offline
        else f"It needs the variables in {path / '.env.example'}."
    )
    chosen = new_project.TEMPLATES[template]
    steps = [
        f"agentscope-supervisor dev {quoted}      # reloads at each change, and opens the console",
        f"agentscope-supervisor invoke {quoted} -s me {shlex.quote(chosen.question)}",
    ]
    if chosen.needs_packages:
        steps.insert(0, f"pip install -r {shlex.quote(str(path / 'requirements.txt'))}")
    click.echo(f"created {path} from the template {template}: {', '.join(files)}\n{model} Next:\n")
    click.echo("".join(f"    {step}\n" for step in steps))


@main.command()
def schema() -> None:
    """Print the JSON Schema of agentapp.yaml."""
    click.echo(json.dumps(settings_module.json_schema(), indent=2))


@main.command()
@start_commands.project_argument
@start_commands.config_option
def types(project: Path, config: Path) -> None:
    """Write type stubs for the model slots of PROJECT.

    Type checkers and editors then know the attributes of `runtime.models`. The stubs are written to the
    folder `typings` of the project; run the command again when the models in agentapp.yaml change.
    """
    folder = project.resolve()
    try:
        written = stubs.write(folder, Project(folder, config).read_slots())
    except (ProjectError, SettingsError) as error:
        launch.fail(EX_CONFIG, f"invalid configuration\n{error}")
    except (stubs.NotOurs, OSError) as error:
        raise click.ClickException(str(error)) from None
    for path in written:
        click.echo(f"created {path.relative_to(folder)}")
    if not stubs.mypy_knows(folder):
        click.echo(
            "pyright, and editors that use it, find the stubs without configuration. For mypy, add this to"
            " pyproject.toml:"
            '\n\n    [tool.mypy]\n    mypy_path = "$MYPY_CONFIG_FILE_DIR/typings"\n'
        )


@main.command(options_metavar="[PROJECT] -s SESSION TEXT")
@click.argument("words", nargs=-1, required=True, metavar="")
@click.option("-s", "--session", required=True, help="Session id. A known id continues that session.")
@start_commands.config_option
@instance_commands.instance_options("the instance of PROJECT, or the only one")
def invoke(
    words: tuple[str, ...], session: str, config: Path, name: str | None, runtime_dir: Path | None
) -> None:
    """Send TEXT to a running instance and print the answer.

    PROJECT is the project folder of the instance, by default the current one. If only one instance is
    running, it is used.
    """
    if len(words) > 2:
        raise click.UsageError("too many arguments; put TEXT in quotes")
    project, text = Path(words[0] if len(words) == 2 else "."), words[-1]
    from agentscope_supervisor.client import ClientError, ConnectionLost

    # A message must not reach another App than that of the folder.
    is_chosen = len(words) == 2 or (project / config).exists()
    address = instance_commands.find(name, runtime_dir, project, only_it=is_chosen)
    try:
        variables = Overrides(env_file=Path(ENV_FILE))
        token, unset = Project(Path(address.project), config, variables).read_token()
    except ProjectError:  # the instance may run without its folder
        token, unset = None, []
    client = instance_commands.client(address.url, token)
    try:
        # Without a key, the turn is cancelled as soon as this command is.
        with client.stream(text, session_id=session, idempotency_key=False) as answer:
            for message in answer:
                click.echo(shown(message.text, sys.stdout), nl=False)
        click.echo()
    except ConnectionLost as error:
        raise click.ClickException(f"the instance {address.name!r} does not answer: {error}") from None
    except ClientError as error:
        hint = (
            f"; the token in {config} needs the variable {', '.join(unset)}, which is not set"
            if unset
            else ""
        )
        raise click.ClickException(f"{error}{hint}") from None
