"""A stand-in for a model provider: it answers in the format of OpenAI, without a network and without a key.

It understands nothing. It calls the first tool whose name, or a part of its name, is a word of the user's
message, and repeats the result of the tool; otherwise it repeats the message. That is enough to develop and
test an App until a real model is configured. `launch` runs it for a project with AGENTSCOPE_OFFLINE=1, and
the tests of new projects run it too.
"""

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

Json = dict[str, Any]

PAUSE: Final = 0.03  # seconds between two words, so that the streaming is visible
MAX_BODY: Final = 64 * 1024 * 1024  # bytes of a request; a conversation with images has a few MB
TIMEOUT: Final = 60.0  # seconds that a client may take for its request

_ECHO_OF_TOOL: Final = "The tool says: "
_ECHO: Final = "The offline model repeats: "


@contextlib.contextmanager
def running(pause: float = 0.0) -> Iterator[str]:
    """Run the server in a thread, on a free port of this machine; yields its base URL."""
    handler = type("Handler", (_Handler,), {"pause": pause})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(
            target=server.serve_forever, args=(0.05,), name="offline-model", daemon=True
        )
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def reply(body: Json) -> Json:
    """Return the message with which the model answers a request: text, or a tool call."""
    role, said = _last(body["messages"])
    if role == "tool":
        return _text(_ECHO_OF_TOOL + said)
    for tool in body.get("tools") or ():
        function = tool["function"]
        if _is_asked_for(function["name"], said):
            call = {"name": function["name"], "arguments": json.dumps(_arguments(function, said))}
            calls = [{"id": f"call_{len(body['messages'])}", "type": "function", "function": call}]
            return {"role": "assistant", "content": None, "tool_calls": calls}
    return _text(_ECHO + said)


def _text(content: str) -> Json:
    return {"role": "assistant", "content": content}


def _last(messages: list[Json]) -> tuple[str, str]:
    """Role and text of the last message of a user or a tool."""
    for message in reversed(messages):
        content = message["content"]
        parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content or ()]
        # AgentScope 2.x adds reminders of its own in the name of the user.
        text = " ".join(part for part in parts if not part.startswith("<system-reminder>"))
        if message["role"] in ("user", "tool") and text:
            return message["role"], text
    return "user", ""


def _is_asked_for(tool: str, said: str) -> bool:
    words = set(re.findall(r"\w+", said.lower()))
    return bool(words & {tool.lower(), *(part for part in tool.lower().split("_") if len(part) > 3)})


def _arguments(function: Json, said: str) -> Json:
    """Values for the required parameters: the last number for numbers, the last word for texts."""
    parameters = function.get("parameters") or {}
    numbers, words = re.findall(r"-?\d+(?:\.\d+)?", said), re.findall(r"[\w.-]*\w", said)
    values: Json = {}
    for name in parameters.get("required", ()):
        kind = parameters["properties"][name].get("type")
        if kind in ("integer", "number"):
            number = float(numbers.pop()) if numbers else 0.0
            values[name] = int(number) if kind == "integer" else number
        else:
            values[name] = words[-1] if words else ""
    return values


def pieces(message: Json) -> Iterator[Json]:
    """Yield the deltas of a message that is streamed, word by word."""
    if message["content"] is None:
        calls = [{"index": index, **call} for index, call in enumerate(message["tool_calls"])]
        yield {"role": "assistant", "tool_calls": calls}
    else:
        for word in re.findall(r"\s*\S+", message["content"]):
            yield {"role": "assistant", "content": word}


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client. The end of a response is the end of the connection."""

    pause = 0.0
    timeout = TIMEOUT

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        if not self.path.endswith("/chat/completions") or size > MAX_BODY:
            self.send_error(404)
            return
        try:
            body = json.loads(self.rfile.read(size))
            message = reply(body)
        except (ValueError, LookupError, TypeError, AttributeError):
            self.send_error(400)
            return
        reason = "stop" if message["content"] is not None else "tool_calls"
        usage = {"prompt_tokens": size // 4, "completion_tokens": 8, "total_tokens": size // 4 + 8}
        common = {"id": "offline", "created": int(time.time()), "model": body.get("model", "offline")}
        self.send_response(200)
        if not body.get("stream"):
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            choice = {"index": 0, "message": message, "finish_reason": reason}
            answer = {**common, "object": "chat.completion", "choices": [choice], "usage": usage}
            self.wfile.write(json.dumps(answer).encode())
            return
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        choices: list[Json] = [{"index": 0, "delta": delta} for delta in pieces(message)]
        choices.append({"index": 0, "delta": {}, "finish_reason": reason})
        with contextlib.suppress(ConnectionError):  # the client has left
            for choice in choices:
                time.sleep(self.pause)
                self._send({**common, "object": "chat.completion.chunk", "choices": [choice]})
            self._send({**common, "object": "chat.completion.chunk", "choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, event: Json) -> None:
        self.wfile.write(b"data: %s\n\n" % json.dumps(event).encode())

    def log_message(self, *_: object) -> None:
        """Log nothing: the base class prints each request."""
