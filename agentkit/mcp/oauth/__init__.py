"""OAuth for MCP servers over HTTP: discovery, login, stored tokens, refresh. Importing it loads no HTTP client."""

from agentkit.mcp.oauth.options import OAuth, open_browser
from agentkit.mcp.oauth.storage import FileStorage, MemoryStorage, TokenStorage

__all__ = ["FileStorage", "MemoryStorage", "OAuth", "TokenStorage", "open_browser"]
