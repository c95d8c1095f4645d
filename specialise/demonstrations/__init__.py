"""Demonstrations on the house's own MCP servers: conversations whose calls were executed, to learn from."""
