"""The MCP servers of the configuration: connections, their repair, and the tools they offer.

Read `connection` first; it leads to `links` and `tools`.
"""
