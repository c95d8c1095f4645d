"""MCP server for time zones, dates, exact arithmetic and units, where language models make mistakes."""
