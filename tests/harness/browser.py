"""A real browser: headless Chromium, controlled by its DevTools protocol over a websocket.

Uses the system's Chromium (`make chromium` installs Debian's), so the tests need no browser of their own.
`Chromium` owns the process; `Page` is one tab with its own cookies. A page collects exceptions, errors on its
console and violations of its Content-Security-Policy in `problems`.
Source: https://chromedevtools.github.io/devtools-protocol/
"""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from tests.harness.waiting import wait_until

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
STARTS_WITHIN: Final = 60.0  # seconds; 1 s on an idle machine
ANSWERS_WITHIN: Final = 60.0  # seconds until a command is answered or a condition holds
LOOK_EVERY: Final = 0.05  # seconds

FLAGS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-quic", "--disable-extensions", "--no-proxy-server", "--remote-debugging-port=0"),
    # Without these, Chromium slows down a tab that is not visible.
    *("--disable-background-timer-throttling", "--disable-renderer-backgrounding"),
    "--disable-backgrounding-occluded-windows",
)

KEYS: Final = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, "")}
"""Name of a key -> its code and text."""


def executable() -> str:
    """Return the path of Chromium. Raises: AssertionError if it is not installed."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    assert found is not None, "no Chromium on PATH: `make chromium` installs it"
    return found


class Chromium:
    """The browser process. Use as a context manager."""

    def __enter__(self) -> Self:
        self._profile: Final = tempfile.mkdtemp(prefix="chromium-")
        command = [executable(), *FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        self._process: Final = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that all its processes can be killed
        )
        try:
            wait_until(lambda: len(self._address()) == 2, STARTS_WITHIN, "Chromium has written its address")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    @property
    def url(self) -> str:
        """The URL of the websocket."""
        port, path = self._address()
        return f"ws://127.0.0.1:{port}{path}"

    def _address(self) -> list[str]:
        assert self._process.poll() is None, f"Chromium ended with {self._process.returncode}"
        with contextlib.suppress(FileNotFoundError):
            return Path(self._profile, "DevToolsActivePort").read_text().splitlines()
        return []


class Page:
    """One tab with its own profile. Use as an async context manager."""

    def __init__(
        self, chromium: Chromium, *, width: int = 1280, height: int = 800, dark: bool = False
    ) -> None:
        self._chromium: Final = chromium
        self._look: Final = (width, height, dark)
        self._numbers: Final = itertools.count(1)
        self._answers: Final[dict[int, asyncio.Future[Any]]] = {}
        self._session: str | None = None
        self._loaded: Final = asyncio.Event()
        self.problems: Final[list[str]] = []

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(aiohttp.ClientSession())
            self._socket = await stack.enter_async_context(
                client.ws_connect(self._chromium.url, max_msg_size=0)
            )
            reading = asyncio.create_task(self._read())
            stack.callback(reading.cancel)
            await self._open()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        async with self._stack:
            self._session = None
            await self._do("Target.disposeBrowserContext", browserContextId=self._context)

    async def _open(self) -> None:
        self._context = (await self._do("Target.createBrowserContext"))["browserContextId"]
        made = await self._do("Target.createTarget", url="about:blank", browserContextId=self._context)
        attached = await self._do("Target.attachToTarget", targetId=made["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self._do(f"{domain}.enable")
        width, height, dark = self._look
        await self._do(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self._do("Emulation.setEmulatedMedia", features=[scheme])

    # -- actions of a user ----------------------------------------------------------------------

    async def goto(self, url: str) -> Self:
        """Open a page and wait until it has loaded."""
        self._loaded.clear()
        reply = await self._do("Page.navigate", url=url)
        assert "errorText" not in reply, f"{url}: {reply['errorText']}"
        async with asyncio.timeout(ANSWERS_WITHIN):
            await self._loaded.wait()
        return self

    async def click(self, selector: str) -> None:
        """Click an element when it exists."""
        await self.sees(f"document.querySelector({json.dumps(selector)})?.checkVisibility()")
        await self.run(f"document.querySelector({json.dumps(selector)}).click()")

    async def type(self, selector: str, text: str) -> None:
        """Type into a field, which gets the focus."""
        await self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        await self._do("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        code, text = KEYS[key]
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        await self._do("Input.dispatchKeyEvent", type="keyDown", **event, **({"text": text} if text else {}))
        await self._do("Input.dispatchKeyEvent", type="keyUp", **event)

    # -- observations ---------------------------------------------------------------------------

    async def run(self, script: str) -> Any:
        """Return the value of an expression in the page; a promise is awaited.

        Raises: AssertionError if it throws.
        """
        reply = await self._do(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    async def sees(self, script: str, within: float = ANSWERS_WITHIN) -> None:
        """Wait until an expression is true. Raises: AssertionError if it stays false."""
        until = asyncio.get_running_loop().time() + within
        while not await self.run(f"Boolean({script})"):
            if asyncio.get_running_loop().time() > until:
                shown = await self.run("document.body.innerText")
                raise AssertionError(f"not within {within:g} s: {script}; the page: {shown[:2000]!r}")
            await asyncio.sleep(LOOK_EVERY)

    async def reads(self, text: str, selector: str = "body", within: float = ANSWERS_WITHIN) -> None:
        """Wait until an element shows this text."""
        element = f"document.querySelector({json.dumps(selector)})"
        await self.sees(f"{element}?.innerText.includes({json.dumps(text)})", within)

    async def cookies(self) -> list[dict[str, Any]]:
        """Return the cookies that the browser has."""
        found: list[dict[str, Any]] = (await self._do("Network.getCookies"))["cookies"]
        return found

    async def screenshot(self) -> bytes:
        """Return the content of the window as a PNG."""
        reply = await self._do("Page.captureScreenshot", format="png")
        return base64.b64decode(reply["data"])

    # -- the protocol ---------------------------------------------------------------------------

    async def _do(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        asked = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            asked["sessionId"] = self._session
        await self._socket.send_json(asked)
        async with asyncio.timeout(ANSWERS_WITHIN):
            return await self._answers[number]

    async def _read(self) -> None:
        async for message in self._socket:
            reply = json.loads(message.data)
            answer = self._answers.pop(reply.get("id", 0), None)
            if answer is not None and not answer.done():
                if "error" in reply:
                    answer.set_exception(AssertionError(f"Chromium: {reply['error']['message']}"))
                else:
                    answer.set_result(reply["result"])
            elif reply.get("method") == "Page.loadEventFired":
                self._loaded.set()
            else:
                self._note(reply.get("method"), reply.get("params", {}))

    def _note(self, event: str | None, reply: dict[str, Any]) -> None:
        match event:
            case "Runtime.exceptionThrown":
                details = reply["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if reply["type"] == "error":
                self.problems.append(" ".join(str(each.get("value")) for each in reply["args"]))
            case "Log.entryAdded" if (
                reply["entry"]["level"] == "error" and reply["entry"]["source"] != "network"
            ):
                self.problems.append(reply["entry"]["text"])
