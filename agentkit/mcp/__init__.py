"""Tools, resources and prompts from MCP servers.

Importing this does not import `mcp`; the first connection does.
"""

from agentkit.mcp.client_features import LogMessage
from agentkit.mcp.config import MCPServerConfig, load_mcp_config
from agentkit.mcp.elicitation import Elicitation
from agentkit.mcp.pins import ToolPins
from agentkit.mcp.prompts import Prompt, PromptArgument, PromptMessages
from agentkit.mcp.resources import Resource, ResourceContents, ResourceItem, ResourceTemplate
from agentkit.mcp.toolset import MCPToolset

__all__ = [
    "Elicitation",
    "LogMessage",
    "MCPServerConfig",
    "MCPToolset",
    "Prompt",
    "PromptArgument",
    "PromptMessages",
    "Resource",
    "ResourceContents",
    "ResourceItem",
    "ResourceTemplate",
    "ToolPins",
    "load_mcp_config",
]
