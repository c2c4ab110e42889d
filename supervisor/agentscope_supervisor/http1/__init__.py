"""HTTP/1.1: the listener, connections and their limits, request parsing, and the writing of responses.

Knows no routes. Read `listener` first.
"""

from agentscope_supervisor.http1 import lazy_aiohttp

lazy_aiohttp.install()
