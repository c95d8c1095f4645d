"""MCP server that reads web pages."""
