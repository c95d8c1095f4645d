"""MCP client: one owner task a connection, tools as a toolset, `mcpServers` config files."""
