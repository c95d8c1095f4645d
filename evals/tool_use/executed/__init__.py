"""Tasks executed on this project's MCP servers; the final state and the answer are checked."""
