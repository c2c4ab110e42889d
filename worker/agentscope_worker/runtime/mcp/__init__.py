"""The MCP servers of the configuration: connections, their repair, and the tools they offer.

Read `mcp_connection` first; it leads to `mcp_links` and `mcp_tools`.
"""
