"""From a command line to a running instance, or to an exit status and a sentence that says why not.

What is wrong is found here, in the order in which it costs least: the file, the interpreter, the name, the
port; only then is a daemon made. Nothing here is left to do once it runs: see `daemon`.
"""

import asyncio
import errno
import gc
import logging
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import click

from agentscope_protocol.config import settings as settings_module
from agentscope_protocol.config.settings import Settings, SettingsError
from agentscope_protocol.wire.page import NAME_BLOCKS
from agentscope_supervisor import __version__
from agentscope_supervisor.http1.listener import BACKLOG
from agentscope_supervisor.processes import interpreter
from agentscope_supervisor.project.config import Project, ProjectError
from agentscope_supervisor.system import instance_dir, log_setup, signals, socket_activation
from agentscope_supervisor.workers.fleet import EX_CONFIG, EX_TEMPFAIL

log = logging.getLogger(__name__)


def start(project: Project, name: str | None, runtime_dir: Path | None, state_dir: Path | None) -> NoReturn:
    """Run one instance to its end, and end with its exit status."""
    signals.prepare()
    if project.folder.is_file():
        project, name = _installed(project, name, state_dir)
    if project.watched or log.isEnabledFor(logging.DEBUG):
        os.environ[NAME_BLOCKS] = "1"
    if project.watched:
        # Bytecode is known by the second and the size of its source: two edits within one would be one.
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    settings = settings_of(project)
    _examine(settings, project.folder)
    try:
        called = instance_dir.name_of(name, project.folder)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    # First the name, then the port, then workers: who cannot have the first two starts no process.
    try:
        claim = instance_dir.Instance(instance_dir.runtime_dir(runtime_dir, os.environ, os.getuid()), called)
        passed_on = socket_activation.inherited(os.environ, os.getpid())
        sock = passed_on or _bind(settings.server.host, settings.server.port)
        host, port = _name_of(sock)
        address = instance_dir.Address(os.getpid(), host, port, called, str(project.folder), __version__)
        control = claim.control_socket()
        claim.publish(address)
    except instance_dir.InstanceError as error:
        fail(EX_TEMPFAIL, str(error))
    except socket_activation.ActivationError as error:
        fail(EX_CONFIG, str(error))
    log.info("listening", extra={"url": address.url, "instance": called, "pid": os.getpid()})
    if settings.server.console == "on":
        log.info("the console is on", extra={"url": f"{address.url}/console"})
    state = instance_dir.state_dir(state_dir, os.environ, os.getuid()) / instance_dir.PROGRAM / called
    status = _serve(project, settings, sock, state / "runs.db", passed_on is not None, control, address)
    claim.close()
    sys.exit(status)


def checked(project: Project) -> Settings:
    """The settings of a project; ends with EX_CONFIG, and what is wrong, if it cannot work."""
    from agentscope_supervisor.workers.pool import worker_command

    settings = settings_of(project)
    _examine(settings, project.folder)
    ended = subprocess.run(
        [*worker_command(settings, project.folder), "--check", str(project.folder)],
        cwd=project.folder,
        input=settings_module.dump(settings),
        check=False,
    )
    if ended.returncode:
        sys.exit(EX_CONFIG)
    return settings


def extracted(archive: Path, room: Path) -> tuple[Path, str]:
    """The project of an archive, in a new folder in `room`, and its name; ends with EX_CONFIG if the archive
    cannot be used."""
    from agentscope_supervisor.project import archive_read

    try:
        return room / "app", archive_read.extract(archive, room / "app").name
    except (archive_read.ArchiveError, OSError) as error:
        fail(EX_CONFIG, f"the archive cannot be used\n{error}")


def settings_of(project: Project) -> Settings:
    """What agentapp.yaml says; ends with EX_CONFIG if it cannot be used."""
    try:
        return project.read_settings()
    except (ProjectError, SettingsError) as error:
        fail(EX_CONFIG, f"the configuration cannot be used\n{error}")


def fail(status: int, message: str) -> NoReturn:
    """End with this exit status, and say why."""
    log_setup.drain()
    click.echo(f"agentscope-supervisor: {message}", err=True)
    sys.exit(status)


# -- inside ---------------------------------------------------------------------------------


def _installed(project: Project, name: str | None, state_dir: Path | None) -> tuple[Project, str]:
    """The project of an archive, put where it can run, and the name of its instance."""
    from agentscope_supervisor.project import archive_read

    archive = project.folder
    try:
        called = name or archive_read.manifest_of(archive).name
        root = instance_dir.state_dir(state_dir, os.environ, os.getuid()) / instance_dir.PROGRAM
        folder = archive_read.install(archive, root / instance_dir.name_of(called, archive))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except archive_read.ArchiveError as error:
        fail(EX_CONFIG, f"the archive cannot be used\n{error}")
    except (archive_read.InUse, instance_dir.InstanceError) as error:
        fail(EX_TEMPFAIL, str(error))
    except OSError as error:
        fail(EX_TEMPFAIL, f"the archive cannot be unpacked into the state directory: {error}")
    log.info("unpacked", extra={"archive": str(archive), "folder": str(folder)})
    return replace(project, folder=folder), called


def _examine(settings: Settings, folder: Path) -> None:
    try:
        interpreter.examine(settings, folder)
    except interpreter.InterpreterError as error:
        fail(EX_CONFIG, str(error))


def _serve(
    project: Project,
    settings: Settings,
    sock: socket.socket,
    store: Path,
    passed_on: bool,
    control: socket.socket,
    address: instance_dir.Address,
) -> int:
    import uvloop

    from agentscope_supervisor.daemon import Daemon

    async def live() -> tuple[int, str]:
        daemon = Daemon(project, settings, store)
        return await daemon.run(sock, control, address, passed_on=passed_on), daemon.failure

    # Nothing that was imported or built until here ever becomes garbage.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status, failure = runner.run(live())
    log_setup.drain()
    if status and failure:
        click.echo(f"\nagentscope-supervisor: the app cannot start\n\n{failure}", err=True)
    return status


def _name_of(sock: socket.socket) -> tuple[str, int]:
    """Host and port; of a Unix socket its path, as `Address.url` knows it, and 0."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"{instance_dir.UNIX}{os.fsdecode(name)}", 0
    return name[0], name[1]


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        temporary = error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
        why = f"cannot listen on {host} port {port}: {error.strerror or error}"
        if error.errno == errno.EADDRINUSE:
            why += "; give another with --port, or 0 for any free one"
        fail(EX_TEMPFAIL if temporary else EX_CONFIG, why)
    return sock
