"""MCP server for one SQLite database."""
