"""Tasks executed on our own MCP servers and checked on the final state and the answer."""
