"""Training demonstrations on the house's own MCP servers: conversations with executed calls."""
