"""The addresses of an instance that listens on every address of its machine."""

import socket
from types import SimpleNamespace

import pytest

from agentscope_supervisor.cli.launch import network_urls

INTERFACES = {
    "lo": [SimpleNamespace(family=socket.AF_INET, address="127.0.0.1")],
    "eth0": [
        SimpleNamespace(family=socket.AF_INET, address="10.0.0.5"),
        SimpleNamespace(family=socket.AF_INET6, address="2001:db8::5"),
        SimpleNamespace(family=socket.AF_INET6, address="fe80::1%eth0"),
        SimpleNamespace(family=socket.AF_UNIX, address="02:00:00:00:00:01"),
    ],
    "lo6": [SimpleNamespace(family=socket.AF_INET6, address="::1")],
}


@pytest.mark.parametrize(
    "host, urls",
    [
        ("0.0.0.0", ["http://10.0.0.5:80"]),
        ("::", ["http://[2001:db8::5]:80"]),
        ("127.0.0.1", []),
        ("10.0.0.5", []),
    ],
)
def test_the_addresses_that_other_machines_reach(host: str, urls: list[str]) -> None:
    assert network_urls(host, 80, INTERFACES) == urls
