"""MCP server for one page in a Chromium that reaches allowed origins and nothing else."""
