"""A process that has AgentScope imported, and forks workers on request: ready sooner, and most memory shared.

    argv: the supervisor's pid, the descriptor of the socket on which it asks

It owns what is imported before the fork and what must be put right after it. It must stay single-threaded,
open no connection, run no event loop and never import the project's own code, which may differ at the next
fork. It says `ready` and then answers one request after the other; or it says why nothing can be forked from
it, and ends.

A worker is forked twice: the one in between ends at once, so that the kernel makes the worker a child of the
supervisor, a subreaper. It does not depend on this process any more; it dies with the supervisor, which gets
its exit status from the kernel. The worker itself announces its pid, once all of that is true.

Environment, umask and limits are those of this process, as the supervisor set them; the folder, the worker's
own variables and the descriptors come with each request. All workers of one zygote share its hash seed
(PYTHONHASHSEED) and the AgentScope that was installed when it started; the supervisor starts a new one for
each new configuration.
The messages are in `agentscope_supervisor.processes.zygote`: JSON, one in each packet.
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

MAX_REQUEST: Final = 64 * 1024  # bytes; a path of 4 KiB, each of them escaped, and more
DESCRIPTORS: Final = 3  # of each request: the link, the page, and where the worker prints

REPARENTED_WITHIN: Final = 5.0
"""Seconds for the end of the process in between; it takes a millisecond, and more only where all starve."""


class Refusal(Exception):
    """No worker can be forked from this process; the text says why."""


def serve(supervisor: int, descriptor: int) -> list[str]:
    """Import what workers need and fork them; returns only in a worker, with its arguments."""
    watchdog.die_with(supervisor)
    watchdog.tell_stacks()
    control = socket.socket(fileno=descriptor)
    words = control.recv(MAX_REQUEST)
    try:
        preload(json.loads(words)["parts"])
        check_single_thread()
    except Refusal as error:
        control.send(json.dumps({"refused": str(error)}).encode())
        sys.exit(0)
    gc.collect()
    # The collector of a worker would write into all of these objects, and so copy their pages.
    gc.freeze()
    control.send(json.dumps({"ready": len(sys.modules)}).encode())
    while True:
        packet, descriptors, _, _ = socket.recv_fds(
            control, MAX_REQUEST, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        if not packet:  # the supervisor has let this process go
            sys.exit(0)
        request = json.loads(packet)
        try:
            check_single_thread()
            is_worker = _fork(descriptors)
        except (Refusal, OSError) as error:
            control.send(json.dumps({"number": request["number"], "failed": str(error)}).encode())
            is_worker = False
        if is_worker:
            return _become_worker(control, supervisor, request, descriptors)
        for each in descriptors:
            os.close(each)


def preload(parts: Collection[str]) -> None:
    """Import what the worker of a project imports before its app.py. `parts`: what the settings use.

    What else cannot be imported is only logged here: each worker finds out for itself, and ends with it.
    Raises: Refusal if AgentScope itself cannot be imported, or does not fit what is installed beside it.
    """
    import uvloop  # noqa: F401

    from agentscope_protocol.config.settings import ModelSettings
    from agentscope_worker import host, serve  # noqa: F401
    from agentscope_worker.runtime.compat.majors import check_installation, seam

    try:
        check_installation(frozenset(part.removeprefix("provider:") for part in parts))
        compat = seam()
    except host.BootError:
        raise Refusal("AgentScope cannot be loaded here, as each worker will tell") from None
    for part in sorted(parts):
        try:
            match part.split(":"):
                case ["provider", provider]:
                    # Of no use but that it imports all that one of the project's own will need.
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
        except Exception as error:  # a library's import can raise anything; the workers can do without
            print(f"{part} is not preloaded: {type(error).__name__}: {error}", file=sys.stderr)


def check_single_thread() -> None:
    """Raises: Refusal if this process has a second thread, of Python or of a library in C.

    A lock that such a thread holds at the moment of a fork is locked for ever in the worker.
    """
    names = [thread.name for thread in threading.enumerate()][1:]
    if names:
        raise Refusal(f"what it imports has started threads: {', '.join(names)}")
    count = len(os.listdir("/proc/self/task"))
    if count > 1:
        raise Refusal(
            f"what it imports has started {count - 1} native threads "
            f"(OPENBLAS_NUM_THREADS is {os.environ.get('OPENBLAS_NUM_THREADS', 'not set')})"
        )


def _fork(descriptors: Collection[int]) -> bool:
    """Fork twice; returns whether this is the worker now. Raises: OSError if there is none."""
    if len(descriptors) != DESCRIPTORS:
        raise OSError(f"{len(descriptors)} descriptors came with the request, not {DESCRIPTORS}")
    sys.stdout.flush()
    sys.stderr.flush()
    between = os.fork()
    if between:
        _, status = os.waitpid(between, 0)
        if status:
            raise OSError("the second fork failed")
        return False
    # From here on it must end or become the worker: nothing may return into the zygote's loop.
    try:
        itself = os.pidfd_open(os.getpid())
        if os.fork():
            os._exit(0)
    except BaseException:
        os._exit(1)
    # Readable when it has ended, and its children have been given to the supervisor.
    select.select([itself], [], [], REPARENTED_WITHIN)
    os.close(itself)
    return True


def _become_worker(
    control: socket.socket, supervisor: int, request: Mapping[str, Any], descriptors: Collection[int]
) -> list[str]:
    """Put right what a fork leaves as it was, and tell the supervisor; returns the worker's arguments."""
    link, page, output = descriptors
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    watchdog.die_with(supervisor)
    os.setsid()
    # From now on its end is the supervisor's to judge, and so it may fail.
    control.send(json.dumps({"number": request["number"], "pid": os.getpid()}).encode())
    control.close()
    os.chdir(request["folder"])
    os.environ.update(request["variables"])
    # At a fork Python makes its own locks anew (those of logging, of imports) and seeds `random`, OpenSSL
    # seeds itself, and there was no loop and no signal handler to inherit. numpy's generator is left.
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    return [str(supervisor), str(link), str(page)]
