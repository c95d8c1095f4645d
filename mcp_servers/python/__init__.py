"""MCP server that runs untrusted Python."""
