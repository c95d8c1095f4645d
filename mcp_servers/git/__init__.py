"""MCP server for one git repository."""
