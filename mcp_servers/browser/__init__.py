"""MCP server for one page in a Chromium that can reach only allowed origins."""
