"""Tool-use suites: the Berkeley Function-Calling Leaderboard, and tasks executed on real MCP servers."""
