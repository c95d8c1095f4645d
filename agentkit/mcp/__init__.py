"""Tools from MCP servers. Importing this does not import `mcp`; the first connection does."""

from agentkit.mcp.config import MCPServerConfig, load_mcp_config
from agentkit.mcp.elicitation import Elicitation
from agentkit.mcp.pins import ToolPins
from agentkit.mcp.toolset import MCPToolset

__all__ = ["Elicitation", "MCPServerConfig", "MCPToolset", "ToolPins", "load_mcp_config"]
