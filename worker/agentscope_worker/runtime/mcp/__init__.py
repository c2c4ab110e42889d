"""The MCP servers of the configuration: their connections, reconnection, and the tools they offer.

Read `connection` first, then `links` and `tools`.
"""
