"""Time zones, dates, exact arithmetic and units over MCP: what a language model gets wrong by itself."""
