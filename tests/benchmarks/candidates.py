"""What is measured: how each candidate is started, which of its processes play which role, how it is asked.

`Candidate.start` is a context manager: inside it the candidate answers, with all its workers; after it, and
after an interruption too, none of its processes is left. All serve `apps/turns.py`.
"""

import concurrent.futures
import contextlib
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from tests.benchmarks.load import Roles
from tests.benchmarks.peers import Environments, proxy
from tests.benchmarks.worker_alone import worker_alone
from tests.harness.instance import COMMAND, Instance, environment, free_port
from tests.harness.waiting import wait_until

APPS: Final = Path(__file__).parent / "apps"
PLAIN: Final = (
    Path(__file__).parents[2] / ".venv" / "bin" / COMMAND.name
)  # where the code is that is developed, not compiled
READY_WITHIN: Final = 90.0  # seconds; agentscope-runtime imports for ten, four workers on two cores for eight
ASKED_AT_ONCE: Final = 16  # connections that look for the pids of all workers behind one socket
SESSION: Final = "#" * 10  # what the load makes a session's number of

Start = Callable[[Path, Environments], AbstractContextManager["Running"]]


@dataclass(frozen=True, slots=True)
class Running:
    """A candidate that answers. `roles`: its processes, as "workers", which run the turns, and "front": our
    supervisor, a proxy, or a master that only watches."""

    port: int
    roles: Roles
    path: str = "/invoke"

    def request(self, script: Mapping[str, Any]) -> bytes:
        """A turn of the session SESSION, as bytes."""
        text = json.dumps(script, separators=(",", ":"))
        if self.path == "/invoke":
            message = {"name": "user", "content": text, "role": "user"}
            body = {"session_id": f"bench-{SESSION}", "message": message, "metadata": {}, "stream": True}
        else:  # agentscope-runtime
            block = {"type": "text", "text": text}
            body = {"session_id": f"bench-{SESSION}", "input": [{"role": "user", "content": [block]}]}
        return http("POST", self.path, json.dumps(body).encode())

    def health(self) -> bytes:
        """A request for its health, as bytes."""
        return http("GET", "/health")


@dataclass(frozen=True, slots=True)
class Candidate:
    """`peer`: its environment, None: ours. `proxies`: what it needs of the system."""

    title: str
    start: Start = field(repr=False)
    peer: str | None = None
    proxies: Sequence[str] = ()


def http(method: str, path: str, body: bytes = b"") -> bytes:
    """A request; the session is a header too, for balancers that pin by it."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nContent-Type: application/json\r\n"
        f"X-Session-Id: bench-{SESSION}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def application(folder: Path, name: str) -> None:
    """Copy what serves, and its turns."""
    for each in (name, "turns.py"):
        shutil.copy(APPS / each, folder)


# -- ours ----------------------------------------------------------------------------------------


def ours(workers: int, command: Path = COMMAND, **sections: Mapping[str, Any]) -> Start:
    """Everything on that is on by default; limits above the thousands of streams of one machine. `command`:
    of this environment, or of another. `sections`: others of agentapp.yaml."""
    settings = {
        **sections,
        "server": {"max_turns": 20_000, "max_connections": 19_000},
        "supervisor": {"max_inflight": 20_000, "drain_timeout": 1, "stop_timeout": 2},
    }

    @contextmanager
    def start(folder: Path, _: Environments) -> Iterator[Running]:
        project = folder / "project"
        project.mkdir()
        application(project, "app.py")
        (project / "agentapp.yaml").write_text(json.dumps(settings), "utf-8")  # JSON is YAML
        instance = Instance(project, folder, name="bench", workers=workers, command=command)
        try:
            instance.launch().wait_ready(READY_WITHIN)
            pids = [worker.pid for worker in instance.ready_workers()]
            roles = {"front": [psutil.Process(instance.pid)], "workers": list(map(psutil.Process, pids))}
            yield Running(instance.port, roles)
        finally:
            with contextlib.suppress(
                AssertionError
            ):  # a worker may outlive the two seconds on a busy machine
                instance.destroy()

    return start


@contextmanager
def alone(folder: Path, _: Environments) -> Iterator[Running]:
    """One worker, without a supervisor."""
    project = folder / "project"
    project.mkdir()
    application(project, "app.py")
    port = free_port()
    with worker_alone(project, folder, port) as (front, worker):
        yield Running(port, {"front": [front], "workers": [worker]})


# -- peers ---------------------------------------------------------------------------------------


@contextmanager
def process(folder: Path, command: Sequence[str | Path]) -> Iterator[psutil.Process]:
    """A command that serves in `folder`; ended with all that it has started."""
    with (folder / "log").open("ab") as log:
        started = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(),
            start_new_session=True,  # an interruption is ours to handle
        )
    master = psutil.Process(started.pid)
    try:
        yield master
    finally:
        family = [master]
        with contextlib.suppress(psutil.Error):
            family += master.children(recursive=True)
        for each in family:
            with contextlib.suppress(psutil.Error):
                each.kill()
        started.wait()
        psutil.wait_procs(family[1:], timeout=5)


def wait_workers(port: int, workers: int, master: psutil.Process) -> list[psutil.Process]:
    """Wait until this many processes have answered at a port. Raises: AssertionError when they do not."""

    def ask(_: int) -> int | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
                return int(json.load(response).get("pid", master.pid))
        except (OSError, ValueError):
            return None

    seen: set[int] = set()

    def all_answer() -> bool:
        assert master.is_running(), "it ended before it answered"
        assert master.status() != psutil.STATUS_ZOMBIE, "it ended before it answered"
        seen.update(pid for pid in askers.map(ask, range(ASKED_AT_ONCE)) if pid is not None)
        return len(seen) >= workers  # more: those behind a proxy

    with concurrent.futures.ThreadPoolExecutor(ASKED_AT_ONCE) as askers:
        wait_until(all_answer, READY_WITHIN, f"{workers} workers answer")
    return [psutil.Process(pid) for pid in seen]


def asgi(peer: str, workers: int, *command: str, app: str = "fastapi_app", path: str = "/invoke") -> Start:
    """A server of ASGI; `command` with {port}."""

    @contextmanager
    def start(folder: Path, environments: Environments) -> Iterator[Running]:
        application(folder, f"{app}.py")
        port = free_port()
        words = [word.format(port=port) for word in command]
        with process(folder, [environments.bin(peer) / words[0], f"{app}:app", *words[1:]]) as master:
            found = wait_workers(port, workers, master)
            roles = {"workers": found}
            if master not in found:
                roles["front"] = [master]
            yield Running(port, roles, path)

    return start


@contextmanager
def aiohttp_workers(folder: Path, environments: Environments, ports: Sequence[int]) -> Iterator[list[Any]]:
    """One process of aiohttp on each port."""
    application(folder, "aiohttp_app.py")
    python = environments.bin("aiohttp") / "python"
    with ExitStack() as stack:
        started = [stack.enter_context(process(folder, [python, "aiohttp_app.py", str(p)])) for p in ports]
        yield [wait_workers(port, 1, each)[0] for port, each in zip(ports, started, strict=True)]


@contextmanager
def plain_aiohttp(folder: Path, environments: Environments) -> Iterator[Running]:
    port = free_port()
    with aiohttp_workers(folder, environments, [port]) as workers:
        yield Running(port, {"workers": workers})


HAPROXY: Final = """
global
  maxconn 9000
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend door
  bind 127.0.0.1:{port} backlog 4096
  default_backend workers
backend workers
  balance hdr(X-Session-Id)
  hash-type consistent
{servers}
"""

NGINX: Final = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/log warn;
worker_processes 1;
worker_rlimit_nofile 20000;
events {{ worker_connections 16000; }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  keepalive_requests 100000000;
  upstream workers {{
    hash $http_x_session_id consistent;
{servers}
    keepalive 256;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://workers;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""


def behind(name: str, workers: int, template: str, server: str, *arguments: str) -> Start:
    """aiohttp workers behind a proxy of the system, pinned by the header of the session."""

    @contextmanager
    def start(folder: Path, environments: Environments) -> Iterator[Running]:
        port, *ports = (free_port() for _ in range(workers + 1))
        servers = "\n".join(server.format(number=n, port=port) for n, port in enumerate(ports))
        settings = folder / "proxy.conf"
        settings.write_text(template.format(port=port, servers=servers, folder=folder), "utf-8")
        with (
            aiohttp_workers(folder, environments, ports) as found,
            process(folder, [proxy(name), *arguments, settings]) as master,
        ):
            wait_workers(port, 1, master)
            yield Running(port, {"front": [master, *master.children()], "workers": found})

    return start


def haproxy(workers: int) -> Start:
    return behind("haproxy", workers, HAPROXY, "  server w{number} 127.0.0.1:{port}", "-db", "-f")


def nginx(workers: int) -> Start:
    return behind("nginx", workers, NGINX, "    server 127.0.0.1:{port};", "-c")


UVICORN: Final = (
    "uvicorn",
    "--port",
    "{port}",
    "--no-access-log",
    "--log-level",
    "warning",
    "--backlog",
    "4096",
)
GUNICORN: Final = ("gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-b", "127.0.0.1:{port}", "-w")
GRANIAN: Final = (
    *("granian", "--interface", "asgi", "--port", "{port}", "--no-ws", "--backlog", "4096"),
    *("--backpressure", "10000", "--workers"),  # of itself it serves 1024 streams at a time
)

CANDIDATES: Final[Mapping[str, Candidate]] = {
    "ours-1": Candidate("agentscope-supervisor, 1 worker", ours(1)),
    "ours-2": Candidate("agentscope-supervisor, 2 workers", ours(2)),
    "ours-4": Candidate("agentscope-supervisor, 4 workers", ours(4)),
    "python-2": Candidate("the same as plain Python, 2 workers", ours(2, PLAIN)),
    "worker-1": Candidate("the worker alone, behind a thin front in C", alone),
    "haproxy-2": Candidate("HAProxy, 2 aiohttp workers", haproxy(2), "aiohttp", ("haproxy",)),
    "nginx-2": Candidate("nginx, 2 aiohttp workers", nginx(2), "aiohttp", ("nginx",)),
    "aiohttp-1": Candidate("aiohttp, 1 process", plain_aiohttp, "aiohttp"),
    "uvicorn-1": Candidate("FastAPI on uvicorn, 1 process", asgi("uvicorn", 1, *UVICORN), "uvicorn"),
    "uvicorn-2": Candidate(
        "FastAPI on uvicorn, 2 workers", asgi("uvicorn", 2, *UVICORN, "--workers", "2"), "uvicorn"
    ),
    "gunicorn-2": Candidate(
        "FastAPI on gunicorn, 2 workers", asgi("gunicorn", 2, *GUNICORN, "2"), "gunicorn"
    ),
    "granian-2": Candidate("FastAPI on granian, 2 workers", asgi("granian", 2, *GRANIAN, "2"), "granian"),
    "runtime-1": Candidate(
        "agentscope-runtime, its AgentApp",
        asgi("runtime", 1, *UVICORN, app="runtime_app", path="/process"),
        "runtime",
    ),
}
