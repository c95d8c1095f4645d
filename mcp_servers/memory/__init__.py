"""MCP server for a knowledge store in one SQLite file."""
