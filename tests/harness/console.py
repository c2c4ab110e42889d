"""Signs in to the console of an instance as its page does, and finds the link that the instance logs."""

import json
import re
from typing import Final

from tests.harness.client import JSON, call
from tests.harness.instance import Instance
from tests.harness.waiting import wait_until

_LINK: Final = re.compile(r"console enabled url=(\S+#token=(\S+))")

_used: Final[set[str]] = set()


def link(instance: Instance) -> str:
    """Return the link of an instance without a token. It works once; each call returns another one."""
    found: list[str] = []

    def is_new() -> bool:
        found[:] = [url for url, _ in _LINK.findall(instance.log) if url not in _used]
        return bool(found)

    wait_until(is_new, 30.0, "the instance has logged a link that was not used")
    _used.add(found[-1])
    return found[-1]


def page_headers(instance: Instance) -> dict[str, str]:
    """Return the headers with which a browser marks requests of the console's own page."""
    return {**JSON, "Host": f"localhost:{instance.port}", "Sec-Fetch-Site": "same-origin"}


async def signed_in(instance: Instance, token: str | None = None) -> dict[str, str]:
    """Sign in; return the headers of the page's requests. `token`: of the instance; None: it has none."""
    headers = page_headers(instance)
    secret = link(instance).partition("#token=")[2] if token is None else token
    body = json.dumps({"token": secret}).encode()
    answer = await call(instance.port, "POST", "/console", body=body, headers=headers)
    assert answer.status == 204, answer.body
    return headers | {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
