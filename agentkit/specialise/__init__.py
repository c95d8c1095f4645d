"""Adapters for the user's own tools: from live MCP servers to a fine-tuned adapter, measured before and after."""
