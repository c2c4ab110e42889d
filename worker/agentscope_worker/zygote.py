"""A process that has imported AgentScope and forks workers on request: they start sooner and share memory.

    argv: the supervisor's pid, the file descriptor of the control socket

Owns the imports before a fork and the corrections after it. It must stay single-threaded, open no
connection, run no event loop, and never import the project's own code, which may differ at the next fork.
The zygote sends `ready` and then handles one request at a time; or it reports why workers cannot be forked
from it, and exits.

A worker is forked twice. The intermediate process exits at once, so that the kernel makes the worker a child
of the supervisor, which is a subreaper. The worker then no longer depends on the zygote: it dies with
the supervisor, and the supervisor receives its exit status from the kernel. The worker reports its own pid
once this is done.

Environment, umask and limits are those of the zygote, as the supervisor set them. The folder, the worker's
own variables and the file descriptors come with each request. All workers of one zygote share its hash seed
(PYTHONHASHSEED) and the AgentScope installation that it imported; the supervisor starts a new zygote for each
new configuration.

Read next: `agentscope_supervisor.processes.zygote`, which defines the messages: JSON, one per packet.
"""

import gc
import json
import os
import select
import socket
import sys
import threading
from collections.abc import Collection, Mapping
from typing import Any, Final

from agentscope_worker import watchdog

MAX_REQUEST: Final = 64 * 1024  # bytes; fits a path of 4 KiB with every byte escaped
DESCRIPTORS: Final = 4  # with each request: the link, the page, the output pipe, and the pipe for log records

REPARENT_TIMEOUT: Final = 5.0
"""Seconds to wait for the exit of the intermediate process; it takes 1 ms unless the machine is busy."""


class CannotFork(Exception):
    """Workers cannot be forked from this process; the message is the reason."""


def serve(supervisor: int, descriptor: int) -> list[str]:
    """Import what workers need and fork them. Returns only in a worker, with the worker's arguments."""
    watchdog.die_with_supervisor(supervisor)
    watchdog.enable_stack_dumps()
    control = socket.socket(fileno=descriptor)
    words = control.recv(MAX_REQUEST)
    try:
        for failure in preload(json.loads(words)["parts"]):
            print(f"not preloaded: {failure}", file=sys.stderr)
        check_single_thread()
    except CannotFork as error:
        control.send(json.dumps({"refused": str(error)}).encode())
        sys.exit(0)
    gc.collect()
    # A worker's garbage collector would write to all these objects, and so copy their pages.
    gc.freeze()
    control.send(json.dumps({"ready": len(sys.modules)}).encode())
    while True:
        packet, descriptors, _, _ = socket.recv_fds(
            control, MAX_REQUEST, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        if not packet:  # the supervisor has closed the socket
            sys.exit(0)
        request = json.loads(packet)
        try:
            check_single_thread()
            is_worker = _fork(descriptors)
        except (CannotFork, OSError) as error:
            control.send(json.dumps({"number": request["number"], "failed": str(error)}).encode())
            is_worker = False
        if is_worker:
            return _become_worker(control, supervisor, request, descriptors)
        for each in descriptors:
            os.close(each)


def preload(parts: Collection[str]) -> list[str]:
    """Import the modules that a project's worker imports before app.py. `parts`: features the settings use.

    Returns the errors of parts that cannot be imported: each worker hits them itself and exits.
    Raises: CannotFork if AgentScope cannot be imported, or does not fit the other installed packages.
    """
    import uvloop  # noqa: F401

    from agentscope_protocol.config.settings import ModelSettings
    from agentscope_worker import host, serve  # noqa: F401
    from agentscope_worker.runtime.compat.majors import check_installation, seam

    try:
        check_installation(frozenset(part.removeprefix("provider:") for part in parts))
        compat = seam()
    except host.BootError:
        raise CannotFork("AgentScope cannot be imported; each worker reports the reason") from None
    failures = []
    for part in sorted(parts):
        try:
            match part.split(":"):
                case ["provider", provider]:
                    # The object is not used, but creating it imports everything that the provider needs.
                    compat.make_model(
                        ModelSettings.model_validate({"provider": provider, "model": "-", "api_key": "-"})
                    )
                case ["mcp"]:
                    from agentscope_worker.runtime.mcp import tools as mcp_tools  # noqa: F401
                case ["redis"]:
                    import redis.asyncio  # noqa: F401
                case ["tracing"]:
                    import opentelemetry.exporter.otlp.proto.http.trace_exporter
                    import opentelemetry.sdk.trace.export  # noqa: F401
        except Exception as error:  # an import can raise anything; workers start without this part
            failures.append(f"{part}: {type(error).__name__}: {error}")
    return failures


def check_single_thread() -> None:
    """Raises: CannotFork if this process has a second thread, started by Python or by a C library.

    A lock that such a thread holds at the moment of a fork stays locked in the worker forever.
    """
    names = [thread.name for thread in threading.enumerate()][1:]
    if names:
        raise CannotFork(f"the imported modules have started threads: {', '.join(names)}")
    count = len(os.listdir("/proc/self/task"))
    if count > 1:
        raise CannotFork(
            f"the imported modules have started {count - 1} native threads "
            f"(OPENBLAS_NUM_THREADS is {os.environ.get('OPENBLAS_NUM_THREADS', 'not set')})"
        )


def _fork(descriptors: Collection[int]) -> bool:
    """Fork twice; returns whether this process is the worker. Raises: OSError if the fork failed."""
    if len(descriptors) != DESCRIPTORS:
        raise OSError(f"the request came with {len(descriptors)} file descriptors instead of {DESCRIPTORS}")
    sys.stdout.flush()
    sys.stderr.flush()
    between = os.fork()
    if between:
        _, status = os.waitpid(between, 0)
        if status:
            raise OSError("the second fork failed")
        return False
    # This process must exit or become the worker; it must not return to the zygote's loop.
    try:
        itself = os.pidfd_open(os.getpid())
        if os.fork():
            os._exit(0)
    except BaseException:
        os._exit(1)
    # Readable once the intermediate process has exited and its child has been reparented to the supervisor.
    select.select([itself], [], [], REPARENT_TIMEOUT)
    os.close(itself)
    return True


def _become_worker(
    control: socket.socket, supervisor: int, request: Mapping[str, Any], descriptors: Collection[int]
) -> list[str]:
    """Correct the state that a fork copies, and report to the supervisor; returns the worker's arguments."""
    link, page, output, records = descriptors
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    watchdog.die_with_supervisor(supervisor)
    os.setsid()
    # The supervisor now sees this process's exit, so that the following steps may fail.
    control.send(json.dumps({"number": request["number"], "pid": os.getpid()}).encode())
    control.close()
    os.chdir(request["folder"])
    os.environ.update(request["variables"])
    # After a fork, Python recreates its own locks (logging, imports) and reseeds `random`, OpenSSL reseeds
    # itself, and no event loop or signal handler was inherited. Only numpy's generator remains.
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    return [str(supervisor), str(link), str(page), str(records)]
