"""MCP server for full-text search in one folder."""
