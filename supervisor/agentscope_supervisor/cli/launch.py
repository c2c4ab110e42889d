"""From a command line to a running instance, or to an exit status and a message that explains it.

Problems are found in order of their cost: the configuration, the interpreter, the name, the port. Only then
is a daemon made. Nothing here runs while the instance serves: see `daemon`.
"""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from agentscope_protocol.config import settings as settings_module
from agentscope_protocol.config import supervisor_secrets
from agentscope_protocol.config.settings import Settings, SettingsError
from agentscope_protocol.wire.page import NAME_BLOCKS
from agentscope_supervisor import __version__
from agentscope_supervisor.cli.interactive import Interactive
from agentscope_supervisor.domain.printable import printable
from agentscope_supervisor.processes import interpreter, worker_user
from agentscope_supervisor.project import config
from agentscope_supervisor.project.config import Project, ProjectError
from agentscope_supervisor.system import (
    instance_dir,
    kernel,
    log_setup,
    signals,
    socket_activation,
    standard_streams,
)
from agentscope_supervisor.web.access.origins import is_local
from agentscope_supervisor.workers.fleet import EX_CONFIG, EX_TEMPFAIL

log = logging.getLogger(__name__)

_EVERY_ADDRESS: Final = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}


def start(project: Project, name: str | None, runtime_dir: Path | None, state_dir: Path | None) -> NoReturn:
    """Run one instance until it stops, and exit with its status."""
    began = time.monotonic()
    gc.set_threshold(50_000, 20, 20)  # nearly all objects are modules that stay, also in the imports below
    terminal = signals.Terminal() if project.overrides.ends_with_terminal else None
    signals.prepare(terminal)
    kernel.forbid_inspection()
    archived = is_archive(project.folder)
    if archived:
        project, name = _installed(project, name, state_dir)
    if project.watched or log.isEnabledFor(logging.DEBUG):
        os.environ[NAME_BLOCKS] = "1"
    if project.watched:
        # Python compares bytecode with its source by size and mtime in seconds: two edits within one second
        # would load stale bytecode.
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    parts = contextlib.ExitStack()
    if project.is_offline():
        _answer_offline(parts)
    settings = settings_of(project)
    user = _examine(settings, project.folder)
    if user is not None:
        if archived:
            fail(EX_CONFIG, "supervisor.user: not with an archive; unpack it, and start the folder")
        _prepare(settings, project, user)
    try:
        instance = instance_dir.name_of(name, project.folder)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    # The name first, then the port: without both, no worker process is started.
    try:
        claim = instance_dir.Instance(
            instance_dir.runtime_dir(runtime_dir, os.environ, os.getuid()), instance
        )
        passed_on = socket_activation.inherited(os.environ, os.getpid())
        _refuse_public(settings, _name_of(passed_on)[0] if passed_on is not None else settings.server.host)
        sock = passed_on or _bind(settings.server.host, settings.server.port)
        host, port = _name_of(sock)
        address = instance_dir.Address(os.getpid(), host, port, instance, str(project.folder), __version__)
        control = claim.control_socket()
        claim.publish(address)
    except instance_dir.InstanceError as error:
        fail(EX_TEMPFAIL, str(error))
    except socket_activation.ActivationError as error:
        fail(EX_CONFIG, str(error))
    others = {"network": urls} if (urls := _urls_of_others(host, port)) else {}
    log.info("listening", extra={"url": address.url, **others, "instance": instance, "pid": os.getpid()})
    state = instance_dir.state_dir(state_dir, os.environ, os.getuid()) / instance_dir.PROGRAM / instance
    interactive = Interactive(address.url, began) if project.overrides.interactive else None
    status = _serve(
        project,
        settings,
        sock,
        state / "runs.db",
        passed_on is not None,
        control,
        address,
        terminal,
        interactive,
    )
    claim.close()
    parts.close()
    standard_streams.leave(status)


def checked(project: Project) -> Settings:
    """Return the settings of a project after a worker has checked it; exit with EX_CONFIG if it cannot start.

    The messages are printed by then.
    """
    from agentscope_supervisor.processes import spawn  # modules of the daemon, which few commands need
    from agentscope_supervisor.processes.launcher import parts_of

    settings = settings_of(project)
    _refuse_public(settings, settings.server.host)
    user = _examine(settings, project.folder)
    ended = subprocess.run(
        [
            *interpreter.worker_command(settings, project.folder),
            *("--check", str(project.folder), *parts_of(settings)),
        ],
        cwd=project.folder,
        env={**spawn.environment(), **(user.variables if user is not None else {})},
        input=supervisor_secrets.removed(settings_module.dump(settings)),
        check=False,
        **(user.options if user is not None else {}),
    )
    if ended.returncode:
        sys.exit(EX_CONFIG)
    return settings


def is_archive(path: Path) -> bool:
    """Return whether PROJECT is an archive; exit with EX_CONFIG if it is another file."""
    try:
        return config.is_archive(path)
    except ProjectError as error:
        fail(EX_CONFIG, str(error))


def extracted(archive: Path, room: Path) -> tuple[Path, str]:
    """Extract an archive into a new folder below `room`; return the project folder and the project's name.

    Exits with EX_CONFIG if the archive is invalid.
    """
    from agentscope_supervisor.project import archive_read

    try:
        return room / "app", archive_read.extract(archive, room / "app").name
    except (archive_read.ArchiveError, OSError) as error:
        fail(EX_CONFIG, f"invalid archive\n{error}")


def settings_of(project: Project) -> Settings:
    """Return the settings in agentapp.yaml; exit with EX_CONFIG if they are invalid."""
    try:
        return project.read_settings()
    except ProjectError as error:
        fail(EX_CONFIG, f"invalid configuration\n{error}")
    except SettingsError as error:
        fail(EX_CONFIG, f"invalid configuration\n{error}{_how_to_set(project)}")


def _how_to_set(project: Project) -> str:
    """How the user sets the variables that the configuration needs; "" if all are set."""
    unset = project.unset_variables()
    if not unset:
        return ""
    file = project.overrides.env_file
    where = f"in {project.folder / file}" if file is not None else "in a file that --env-file names"
    text = f"\nSet {', '.join(unset)} in the environment, or as NAME=value lines {where}"
    example = project.folder / ".env.example"
    return f"{text}; {example} shows how" if example.is_file() else text


def fail(status: int, message: str) -> NoReturn:
    """Print a message to stderr, if possible, and exit with this status."""
    log_setup.drain()
    standard_streams.print_error(printable(f"agentscope-supervisor: {message}"))
    sys.exit(status)


def _answer_offline(parts: contextlib.ExitStack) -> None:
    """Answer requests to models in this process, until `parts` ends."""
    from agentscope_supervisor.project import offline_model

    url = parts.enter_context(offline_model.running(offline_model.PAUSE))
    os.environ.setdefault("OPENAI_API_KEY", "offline")
    os.environ["OPENAI_BASE_URL"] = url
    log.warning("the offline model answers instead of a provider", extra={"OPENAI_BASE_URL": url})


# -- internals ------------------------------------------------------------------------------


def _installed(project: Project, name: str | None, state_dir: Path | None) -> tuple[Project, str]:
    """Install an archive into the state directory; return its project and the name of the instance."""
    from agentscope_supervisor.project import archive_read

    archive = project.folder
    try:
        instance = name or archive_read.manifest_of(archive).name
        # Absolute: workers have another working directory.
        root = instance_dir.state_dir(state_dir, os.environ, os.getuid()).absolute() / instance_dir.PROGRAM
        folder = archive_read.install(archive, root / instance_dir.name_of(instance, archive))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except archive_read.ArchiveError as error:
        fail(EX_CONFIG, f"invalid archive\n{error}")
    except (archive_read.InUse, instance_dir.InstanceError) as error:
        fail(EX_TEMPFAIL, str(error))
    except OSError as error:
        fail(EX_TEMPFAIL, f"cannot extract the archive into the state directory: {error}")
    log.info("archive extracted", extra={"archive": str(archive), "folder": str(folder)})
    return replace(project, folder=folder), instance


def _refuse_public(settings: Settings, host: str) -> None:
    """Exit with EX_CONFIG if everybody who reaches `host` could use the instance."""
    if settings.server.auth_token is not None or settings.auth.tokens or settings.server.open:
        return
    if not (host.startswith(instance_dir.UNIX) or is_local(host.lower())):
        fail(
            EX_CONFIG,
            f"other machines reach {host}, and server.auth_token is not set\n"
            "Set server.auth_token or auth.tokens, or listen on 127.0.0.1. If everybody who reaches the "
            "address may use the instance, set server.open: true",
        )


def _examine(settings: Settings, folder: Path) -> worker_user.WorkerUser | None:
    """Check that workers can be started; return their user, if it is another one."""
    try:
        user = worker_user.of(settings)
        interpreter.examine(settings, folder, user)
    except (interpreter.InterpreterError, worker_user.UserError) as error:
        fail(EX_CONFIG, str(error))
    return user


def _prepare(settings: Settings, project: Project, user: worker_user.WorkerUser) -> None:
    try:
        worker_user.prepare_sessions(settings, project.folder, user)
    except worker_user.UserError as error:
        fail(EX_CONFIG, str(error))


def _serve(
    project: Project,
    settings: Settings,
    sock: socket.socket,
    store: Path,
    passed_on: bool,
    control: socket.socket,
    address: instance_dir.Address,
    terminal: signals.Terminal | None,
    interactive: Interactive | None,
) -> int:
    import uvloop

    from agentscope_supervisor.daemon import Daemon

    async def run() -> tuple[int, str]:
        if interactive is None:
            daemon = Daemon(project, settings, store, terminal)
            return await daemon.run(sock, control, address, passed_on=passed_on), daemon.failure
        daemon = Daemon(project, settings, store, terminal, interactive.ready)
        with interactive.keys(daemon, opens=project.overrides.opens_browser):
            return await daemon.run(sock, control, address, passed_on=passed_on), daemon.failure

    # Objects that exist now live as long as the process: the collector need not look at them again.
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status, failure = runner.run(run())
    log_setup.drain()
    if status and failure:
        standard_streams.print_error(f"\nagentscope-supervisor: the app cannot start\n\n{failure}")
    return status


def _urls_of_others(host: str, port: int) -> str:
    if host not in _EVERY_ADDRESS:
        return ""
    import psutil  # imported late: it takes 3 MB

    return ", ".join(network_urls(host, port, psutil.net_if_addrs()))


def network_urls(host: str, port: int, interfaces: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the URLs by which other machines reach an instance that listens on every address.

    `interfaces`: those of psutil, with their addresses.
    """
    family = _EVERY_ADDRESS.get(host)
    found = [each.address for addresses in interfaces.values() for each in addresses if each.family == family]
    # An IPv6 address with a zone, such as fe80::1%eth0, is of one link only, and no URL in a browser.
    far = [address for address in found if not (is_local(address) or "%" in address)]
    return [f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}" for address in far]


def _name_of(sock: socket.socket) -> tuple[str, int]:
    """Return host and port. For a Unix socket: its path in the form that `Address.url` uses, and 0."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"{instance_dir.UNIX}{os.fsdecode(name)}", 0
    return name[0], name[1]


def _bind(host: str, port: int) -> socket.socket:
    from agentscope_supervisor.http1.listener import BACKLOG  # aiohttp, which no other command needs

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
            why += "; choose another port with --port, or 0 for any free port"
        fail(EX_TEMPFAIL if temporary else EX_CONFIG, why)
    return sock
