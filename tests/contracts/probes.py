"""Questions to the app of tests/apps/probe, each with an answer that can be compared between two servers."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import httpx
import websockets

from tests.harness.waiting import eventually, eventually_so

WITHIN: Final = 20.0  # seconds for one question
ITS_OWN: Final = ("date", "server", "connection", "transfer-encoding", "x-agentscope-worker", "x-request-id")
"""Headers that each server sets in its own way."""

Probe = Callable[["Asker"], Awaitable[Any]]
PROBES: dict[str, Probe] = {}


def probe(name: str) -> Callable[[Probe], Probe]:
    def add(function: Probe) -> Probe:
        PROBES[name] = function
        return function

    return add


class Asker:
    """A client of one server."""

    def __init__(self, port: int) -> None:
        self.port: Final = port
        # Each request has a connection of its own: uvicorn ends some that a client would use again.
        self.web: Final = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            timeout=WITHIN,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def answer(self, name: str) -> Any:
        """The answer to one question, or the words for an error of the client."""
        try:
            async with asyncio.timeout(WITHIN):
                return await PROBES[name](self)
        except (httpx.HTTPError, OSError, TimeoutError, websockets.WebSocketException) as error:
            return f"{type(error).__name__}: {error}"[:200]

    async def raw(self, data: bytes, *, until: bytes = b"") -> tuple[bytes, bool]:
        """The bytes that follow `data` on a connection, up to `until`, and whether it has ended then."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        got = b""
        try:
            while not until or until not in got:
                piece = await reader.read(65536)
                if not piece:
                    return got, True
                got += piece
            return got, False
        except ConnectionError:
            return got, True
        finally:
            writer.close()

    async def gone(self, last: str) -> list[str]:
        """The ends that the app has noticed, up to `last`."""
        found: list[str] = []

        async def noticed() -> bool:
            found.extend((await self.web.get("/gone")).json())
            return last in found

        await eventually_so(noticed, WITHIN, f"the app notices: {last}")
        return found

    def socket(self, path: str, **options: Any) -> Any:
        return websockets.connect(f"ws://127.0.0.1:{self.port}{path}", **options)


def shown(response: httpx.Response) -> list[Any]:
    headers = sorted([name, value] for name, value in response.headers.multi_items() if name not in ITS_OWN)
    return [response.status_code, headers, response.text[:300]]


def _asks(path: str, method: str = "GET", **options: Any) -> Probe:
    async def ask(asker: Asker) -> Any:
        return shown(await asker.web.request(method, path, **options))

    return ask


for _path in (
    *("/state", "/sync", "/async", "/empty", "/redirect", "/length", "/sync_gen", "/boom", "/sub/hello"),
    *("/nothing", "/path/a%2Fb/%E4%BD%A0?q=1%202", "/path/../x", "/path//y//z"),
):
    PROBES[f"GET {_path}"] = _asks(_path)
for _method in ("PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
    PROBES[_method] = _asks("/any", _method)
PROBES["CORS, preflight"] = _asks(
    "/any", "OPTIONS", headers={"Origin": "http://ok", "Access-Control-Request-Method": "PUT"}
)
PROBES["CORS"] = _asks("/any", headers={"Origin": "http://ok"})


@probe("scope")
async def _scope(asker: Asker) -> Any:
    return (await asker.web.get("/scope?a=1&b=%20", headers={"host": "example.org:99"})).json()


@probe("headers")
async def _headers(asker: Asker) -> Any:
    uni = "é".encode("latin-1")
    sent: list[tuple[str, str | bytes]] = [("X-A", "1"), ("X-A", "2"), ("X-Uni", uni), ("Cookie", "a=1; b=2")]
    sent += [("X-Forwarded-For", "9.9.9.9"), ("X-Forwarded-Proto", "https")]
    pairs: Any = [(n.encode(), v if isinstance(v, bytes) else v.encode()) for n, v in sent]
    return (await asker.web.get("/headers", headers=pairs)).json()


@probe("gzip")
async def _gzip(asker: Asker) -> Any:
    response = await asker.web.get("/gzipped", headers={"Accept-Encoding": "gzip"})
    return [response.status_code, response.headers.get("content-encoding"), len(response.content)]


@probe("background task")
async def _background(asker: Asker) -> Any:
    before = (await asker.web.post("/background")).json()

    async def ran() -> Any:
        return (await asker.web.get("/background")).json()

    return [before, await eventually_so(ran, WITHIN, "the task has run")]


@probe("upload of a form")
async def _upload(asker: Asker) -> Any:
    blob = bytes(range(256)) * 4096 * 8
    form = {"files": {"file": ("ü.bin", blob)}, "data": {"note": "n"}}
    answer = (await asker.web.post("/upload", **form)).json()  # type: ignore[arg-type]
    return answer | {"is_whole": answer["digest"] == hashlib.sha256(blob).hexdigest()}


@probe("body in chunks")
async def _stream_in(asker: Asker) -> Any:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"p" * 100_000
            await asyncio.sleep(0.005)

    return (await asker.web.post("/stream_in", content=pieces())).json()


@probe("early answer to a large body")
async def _early(asker: Asker) -> Any:
    response = await asker.web.post("/early", content=b"x" * 3_000_000)
    return [response.status_code, response.text]


@probe("file of 16 MB")
async def _big(asker: Asker) -> Any:
    response = await asker.web.get("/big")
    names = ("content-length", "accept-ranges", "content-type")
    return [
        response.status_code,
        hashlib.sha256(response.content).hexdigest(),
        [response.headers.get(name) for name in names],
    ]


@probe("range of a file")
async def _range(asker: Asker) -> Any:
    response = await asker.web.get("/big", headers={"Range": "bytes=1048570-1048580"})
    return [response.status_code, response.content.hex(), response.headers.get("content-range")]


@probe("events arrive one by one")
async def _events(asker: Asker) -> Any:
    async with asker.web.stream("GET", "/sse?n=5") as response:
        return [piece.decode() async for piece in response.aiter_raw()]


@probe("error in a stream")
async def _error(asker: Asker) -> Any:
    async with asker.web.stream("GET", "/boom_mid", headers={"Accept-Encoding": "identity"}) as response:
        first = [piece.decode() async for piece in _until_error(response)]
    return first


async def _until_error(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in response.aiter_raw():
            yield piece
    except httpx.RemoteProtocolError as error:
        yield type(error).__name__.encode()


@probe("client leaves a stream")
async def _leave(asker: Asker) -> Any:
    await asker.web.get("/gone")  # clears what others have left
    async with asker.web.stream("GET", "/sse?n=200&gap=0.1") as response:
        async for _ in response.aiter_raw():
            break
    return await asker.gone("finally")


@probe("is_disconnected")
async def _is_disconnected(asker: Asker) -> Any:
    await asker.web.get("/gone")
    _, writer = await asyncio.open_connection("127.0.0.1", asker.port)
    writer.write(b"GET /wait_disconnect HTTP/1.1\r\nHost: x\r\n\r\n")
    await asker.web.get("/state")
    writer.close()
    return await asker.gone("is_disconnected")


@probe("back pressure of a slow client")
async def _slow(asker: Asker) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", asker.port, limit=4096)
    writer.write(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readline()
    before = -1
    while (made := (await asker.web.get("/made")).json()) != before:
        before = made
        await asyncio.sleep(0.2)
    writer.close()
    return {"is_bounded": made < 500}


@probe("response during the request")
async def _duplex(asker: Asker) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", asker.port)
    head = b"POST /duplex HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    writer.write(head + b"5\r\nhello\r\n")
    first = await reader.readuntil(b"got 5\n\r\n")
    writer.write(b"3\r\nabc\r\n0\r\n\r\n")
    rest = await reader.read()
    writer.close()
    return (first + rest).decode("latin-1").partition("\r\n\r\n")[2]


@probe("Expect: 100-continue")
async def _expect(asker: Asker) -> Any:
    head = b"POST /stream_in HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    return (await asker.raw(head, until=b"\r\n\r\n"))[0].decode()


@probe("upgrade to h2c")
async def _h2c(asker: Asker) -> Any:
    head = (
        b"GET /state HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n"
    )
    return (await asker.raw(head, until=b"\r\n\r\n"))[0][:15].decode()


@probe("HTTP/1.0")
async def _http_1_0(asker: Asker) -> Any:
    got, is_over = await asker.raw(b"GET /state HTTP/1.0\r\nHost: x\r\n\r\n")
    return [got[:15].decode(), is_over, b"chunked" in got.lower()]


@probe("HTTP/1.0, a stream")
async def _http_1_0_stream(asker: Asker) -> Any:
    got, is_over = await asker.raw(b"GET /sse?n=2 HTTP/1.0\r\nHost: x\r\n\r\n")
    return [got[:15].decode(), is_over, b"chunked" in got.lower(), got.count(b"data:")]


@probe("two requests at once")
async def _pipelined(asker: Asker) -> Any:
    both = b"GET /state HTTP/1.1\r\nHost: x\r\n\r\nGET /sync HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    got, is_over = await asker.raw(both)
    return [got.count(b"HTTP/1.1 200"), is_over]


@probe("absolute target")
async def _absolute(asker: Asker) -> Any:
    head = b"GET http://other.example/state HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    return (await asker.raw(head))[0][:15].decode()


@probe("WebSocket")
async def _websocket(asker: Asker) -> Any:
    async with asker.socket("/ws", subprotocols=["chat", "other"], max_size=None) as socket:
        await socket.send("hi")
        text = await socket.recv()
        await socket.send(b"abc")
        data = await socket.recv()
        await socket.send("x" * 300_000)
        size = len(await socket.recv())
        await socket.send("close")
        await socket.wait_closed()
        header = socket.response.headers.get("x-ws")
        return [socket.subprotocol, header, text, data.decode(), size, socket.close_code, socket.close_reason]


@probe("WebSocket, refused")
async def _refused(asker: Asker) -> Any:
    return await _status_of(asker, "/ws?token=no")


@probe("WebSocket, no route")
async def _no_route(asker: Asker) -> Any:
    return await _status_of(asker, "/nothing")


async def _status_of(asker: Asker, path: str) -> Any:
    try:
        async with asker.socket(path):
            return "open"
    except websockets.InvalidStatus as error:
        return error.response.status_code


@probe("WebSocket, closed by the client")
async def _closed(asker: Asker) -> Any:
    await asker.web.get("/gone")
    async with asker.socket("/ws") as socket:
        await socket.send("hi")
        await socket.recv()
        await socket.close(code=4005)
    return await asker.gone("ws finally")


@probe("WebSocket, client is lost")
async def _lost(asker: Asker) -> Any:
    await asker.web.get("/gone")
    async with asker.socket("/ws") as socket:
        socket.transport.abort()
    return await asker.gone("ws finally")


@probe("WebSocket, error in the app")
async def _broken(asker: Asker) -> Any:
    async with asker.socket("/ws") as socket:
        await socket.send("boom")
        await eventually(lambda: socket.state is websockets.State.CLOSED, 30, "the server closes")
        await socket.wait_closed()
        return socket.close_code
