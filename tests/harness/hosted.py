"""Projects with a hosted app, and clients of their instances."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.fakes.hosting_worker import program
from tests.harness.instance import Instance
from tests.harness.projects import configure, copied


def hosted(folder: Path, **sections: dict[str, Any]) -> Path:
    """A copy of tests/apps/asgi, hosted by `tests.fakes.hosting_worker`."""
    project = copied("asgi", folder)
    supervisor = {"python": program(project), "preload": False, "soak": 0, **sections.pop("supervisor", {})}
    configure(project, supervisor=supervisor, **sections)
    return project


@contextlib.asynccontextmanager
async def client(instance: Instance, **options: Any) -> AsyncIterator[aiohttp.ClientSession]:
    """A session of an HTTP client for this instance."""
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    base = f"http://127.0.0.1:{instance.port}"
    async with aiohttp.ClientSession(base, timeout=timeout, auto_decompress=False, **options) as session:
        yield session


async def raw(instance: Instance, data: bytes, *, until: bytes = b"") -> bytes:
    """The bytes of a connection on which `data` is sent: up to `until`, or to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", instance.port)
    writer.write(data)
    try:
        async with asyncio.timeout(20):
            return await (reader.readuntil(until) if until else reader.read())
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
