"""An agent SDK that owns its model: `from agentkit import Agent`.

Heavy parts are loaded on first use: importing this package loads no model, no HTTP client, no MCP client, and
neither pydantic nor anyio. The first tool and the first run load these two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentkit.agent import Agent
from agentkit.context import RunContext
from agentkit.errors import (
    AgentKitError,
    AgentRunError,
    ApprovalRequired,
    CheckpointError,
    ContextWindowExceeded,
    MCPConnectionError,
    ModelError,
    ModelRetry,
    ToolExecutionError,
    ToolFailed,
    UnexpectedModelBehavior,
    UserError,
)
from agentkit.events import AgentEvent
from agentkit.limits import UsageLimits
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    messages_from_json,
    messages_to_json,
)
from agentkit.models.base import Model, ModelProfile, ModelSettings
from agentkit.results import RunResult
from agentkit.run.state import RunState
from agentkit.run.stream import AgentStream
from agentkit.tools.definition import ToolAnnotations, ToolDefinition
from agentkit.tools.function import FunctionToolset, tool
from agentkit.tools.tool import Tool, ToolOutput
from agentkit.tools.toolset import Toolset
from agentkit.usage import RequestUsage, RunUsage

if TYPE_CHECKING:
    from agentkit.mcp.config import load_mcp_config
    from agentkit.mcp.toolset import MCPToolset
    from agentkit.models.fallback import FallbackModel
    from agentkit.models.local.model import LocalModel
    from agentkit.models.openai.model import OpenAICompatibleModel
    from agentkit.persistence.sqlite_checkpointer import SQLiteCheckpointer
    from agentkit.teams.handoffs import Handoff

__all__ = [
    "Agent",
    "AgentEvent",
    "AgentKitError",
    "AgentRunError",
    "AgentStream",
    "ApprovalRequired",
    "CheckpointError",
    "ContextWindowExceeded",
    "FallbackModel",
    "FunctionToolset",
    "Handoff",
    "LocalModel",
    "MCPConnectionError",
    "MCPToolset",
    "Model",
    "ModelError",
    "ModelMessage",
    "ModelProfile",
    "ModelRequest",
    "ModelResponse",
    "ModelRetry",
    "ModelSettings",
    "OpenAICompatibleModel",
    "RequestUsage",
    "RunContext",
    "RunResult",
    "RunState",
    "RunUsage",
    "SQLiteCheckpointer",
    "Tool",
    "ToolAnnotations",
    "ToolDefinition",
    "ToolExecutionError",
    "ToolFailed",
    "ToolOutput",
    "Toolset",
    "UnexpectedModelBehavior",
    "UsageLimits",
    "UserError",
    "load_mcp_config",
    "messages_from_json",
    "messages_to_json",
    "tool",
]

_LAZY = {
    "FallbackModel": "agentkit.models.fallback",
    "Handoff": "agentkit.teams.handoffs",
    "LocalModel": "agentkit.models.local.model",
    "MCPToolset": "agentkit.mcp.toolset",
    "OpenAICompatibleModel": "agentkit.models.openai.model",
    "SQLiteCheckpointer": "agentkit.persistence.sqlite_checkpointer",
    "load_mcp_config": "agentkit.mcp.config",
}


def __getattr__(name: str) -> Any:
    """Import the models and the MCP client on first access."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
