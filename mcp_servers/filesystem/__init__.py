"""MCP server for the files below one folder."""
