"""Hosts a project on two workers, sends it one message, and stays up.

Used by `make demo` and `make demo-llm`. The demo works like a user's project: a real supervisor, real
workers, HTTP. With `--with-model-server` the project's OpenAI-compatible model is a small server on this
machine.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

START_TIMEOUT = 120.0  # seconds; mostly the first import of AgentScope on a slow disk
PREFERRED_PORT = 8080


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("--with-model-server", action="store_true")
    parser.add_argument(
        "--port",
        type=int,
        help=f"port of the app (default: {PREFERRED_PORT}, or a free port if it is in use)",
    )
    parser.add_argument("--message", default="Hello from the first command!")
    arguments = parser.parse_args()
    # SIGTERM must end the processes that the demo has started, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        environment = dict(os.environ)
        if arguments.with_model_server:
            url = stack.enter_context(model_server())
            environment |= {"OPENAI_API_KEY": "not-a-secret", "OPENAI_BASE_URL": url}
        port = arguments.port if arguments.port is not None else free_port()
        runtime_dir = stack.enter_context(tempfile.TemporaryDirectory(prefix="agentscope-demo-"))
        command = [program("agentscope-supervisor"), "run", str(arguments.project), "--workers", "2"]
        command += ["--port", str(port), "--runtime-dir", runtime_dir]
        supervisor = subprocess.Popen(command, env=environment)
        stack.callback(end, supervisor)
        address = wait_until_ready(supervisor, Path(runtime_dir))
        print(f"\n> {arguments.message}", flush=True)
        answer(address, arguments.message)
        print(
            "\nThe app runs until you press Ctrl-C. Try it from another terminal:\n\n"
            f"    curl -N {address}/invoke -H 'Content-Type: application/json' \\\n"
            """      -d '{"session_id": "me", "message": {"content": "Hello"}}'\n"""
            f"    {command[0]} status --runtime-dir {runtime_dir}\n",
            flush=True,
        )
        return supervisor.wait()


def program(name: str) -> str:
    """Return the path of a command of this environment, whatever PATH says."""
    return str(Path(sys.executable).with_name(name))


def free_port() -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PREFERRED_PORT))
        except OSError:
            return 0
        return PREFERRED_PORT


@contextlib.contextmanager
def model_server() -> Iterator[str]:
    """Run the tests' model server; yields its base URL."""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "tests.fakes.model_server", "--port", "0", "--delay", "0.05"]
    server = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().split()[-1]
    finally:
        end(server)


def wait_until_ready(supervisor: subprocess.Popen[bytes], runtime_dir: Path) -> str:
    """Return the URL of the instance when both workers are ready."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if supervisor.poll() is not None:
            sys.exit(supervisor.returncode)
        for file in runtime_dir.glob("*/*/instance.json"):
            instance = json.loads(file.read_text())
            url = f"http://localhost:{instance['port']}"
            with (
                contextlib.suppress(urllib.error.URLError),
                urllib.request.urlopen(f"{url}/health") as response,
            ):
                if json.load(response)["status"] == "healthy":
                    return url
        time.sleep(0.1)
    sys.exit(f"the instance was not ready within {START_TIMEOUT:g} s")


def answer(url: str, message: str) -> None:
    """Send one message and print the answer as it arrives."""
    body = json.dumps({"session_id": "demo", "message": {"role": "user", "content": message}}).encode()
    request = urllib.request.Request(f"{url}/invoke", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        for line in response:
            if line.startswith(b"data: "):
                print(text_of(json.loads(line[len(b"data: ") :])), end="", flush=True)
    print()


def text_of(event: dict[str, object]) -> str:
    if "error" in event and "role" not in event:
        return f"\n{event['error']}"
    content = event["content"]
    if isinstance(content, str):
        return content
    assert isinstance(content, list)
    return "".join(block["text"] for block in content if block["type"] == "text")


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Terminate a process and wait for it."""
    if process.poll() is None:
        process.terminate()
    process.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
