"""The commands that fit this package to a machine: a systemd unit, and the completion of a shell."""

import shutil
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import click
from click import shell_completion

from agentscope_supervisor.system import instance_dir

PROGRAM: Final = "agentscope-supervisor"
SHIPPED_PATH: Final = f"/usr/bin/{PROGRAM}"
_UNIT: Final = f"systemd/{PROGRAM}@.service"
_HOMES: Final = ("/home/", "/root/", "/run/user/")


def unit_text(shipped: str, program: str, project: Path | None, name: str) -> str:
    """Return the shipped unit for a program at this path. `project`: None: the unit stays a template."""
    text = shipped.replace(f"={SHIPPED_PATH} ", f"={program} ")
    if project is None:
        return text
    _, _, body = text.partition("\n[Unit]")
    file = f"/etc/systemd/system/{PROGRAM}-{name}.service"
    commands = f"#   {PROGRAM} unit {project} > {file}\n#   systemctl enable --now {PROGRAM}-{name}\n"
    head = f"# Hosts {project}:\n#\n{commands}"
    return f"{head}\n[Unit]{body.replace('/srv/%i', str(project)).replace('%i', name)}"


def shipped_unit() -> str:
    """Return the text of the unit in this package. Raises: click.ClickException if it is not installed."""
    checkout = Path(__file__).parents[3] / "configs"
    for folder in (checkout, Path(sysconfig.get_path("data"), "share", PROGRAM, "configs")):
        if (folder / _UNIT).is_file():
            return (folder / _UNIT).read_text("utf-8")
    raise click.ClickException("the unit is not installed: this package has no data files here")


@click.command()
@click.argument("project", type=click.Path(path_type=Path, exists=True, file_okay=False), required=False)
@click.option("--name", help="Name of the instance.  [default: name of the project folder]")
def unit(project: Path | None, name: str | None) -> None:
    """Print a systemd unit for this machine.

    The unit starts the program that prints it. With PROJECT, it hosts that folder; without, it is a template,
    and the part of its name after `@` is the folder below /srv.
    """
    program = str(Path(shutil.which(sys.argv[0]) or sys.argv[0]).absolute())
    folder = project.resolve() if project is not None else None
    _check_paths([program, *([str(folder)] if folder is not None else [])])
    try:
        instance = instance_dir.name_of(name, folder) if folder is not None else ""
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    click.echo(unit_text(shipped_unit(), program, folder, instance), nl=False)


def _check_paths(paths: Iterable[str]) -> None:
    """Warn about paths that the service cannot read. Raises: click.UsageError."""
    for path in paths:
        if any(character.isspace() or character in "%\"'\\" for character in path):
            raise click.UsageError(f"systemd cannot use this path without escapes: {path}")
        if path.startswith(_HOMES):
            click.echo(
                f"warning: {path} is in a home folder, which the service cannot read (ProtectHome=,"
                " DynamicUser=). Put it elsewhere, for example below /opt or /srv",
                err=True,
            )


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    For bash, add to ~/.bashrc: eval "$(agentscope-supervisor completion bash)". For zsh, add the same line
    with zsh to ~/.zshrc. For fish, write the script to
    ~/.config/fish/completions/agentscope-supervisor.fish.
    """
    kind = shell_completion.get_completion_class(shell)
    assert kind is not None, "click knows these shells"
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, PROGRAM, f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE").source())


COMMANDS: Final = (completion, unit)
