"""MCP server that runs Python which nobody trusts."""
