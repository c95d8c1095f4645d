"""Tool use: the Berkeley Function-Calling Leaderboard, and tasks executed on real MCP servers."""
