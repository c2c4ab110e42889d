"""aiohttp as the supervisor imports it: its server alone, until somebody uses another name of it."""

import subprocess
import sys
from types import ModuleType

import aiohttp

from agentscope_supervisor.http1 import lazy_aiohttp
from tests.harness.instance import environment

SERVES = """
import sys, warnings
warnings.simplefilter("error")
from agentscope_supervisor.http1 import aiohttp_web, listener

for unused in ("client", "connector", "web", "cookiejar"):
    assert f"aiohttp.{unused}" not in sys.modules, unused
import aiohttp, aiohttp.web_protocol
assert aiohttp.web_protocol.RequestHandler is aiohttp_web.RequestHandler
from aiohttp import hdrs, streams
assert "aiohttp.client" not in sys.modules, "modules of the package are imported by themselves"
assert not hasattr(aiohttp, "no_such_name"), "it runs __init__, which has no such name"
assert "aiohttp.client" in sys.modules
from aiohttp import ClientSession, web
assert ClientSession is sys.modules["aiohttp.client"].ClientSession
assert web.Response is aiohttp_web.Response
assert aiohttp.StreamReader is streams.StreamReader
assert "ClientSession" in dir(aiohttp) and aiohttp.__version__ and aiohttp.__all__
"""


def test_the_server_is_imported_without_the_client() -> None:
    subprocess.run([sys.executable, "-c", SERVES], check=True, env=environment())


def test_an_aiohttp_that_is_imported_already_stays() -> None:
    assert aiohttp.ClientSession
    lazy_aiohttp.install()
    assert sys.modules["aiohttp"] is aiohttp
    assert type(aiohttp) is ModuleType
