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
    NoOutputError,
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
    RetryPromptPart,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
    messages_from_json,
    messages_to_json,
)
from agentkit.models.base import Model, ModelProfile, ModelSettings
from agentkit.results import RunResult
from agentkit.run.setup import ResumeOptions, RunOptions
from agentkit.run.state import RunState
from agentkit.run.stream import AgentStream, SyncAgentStream
from agentkit.tools.definition import ToolAnnotations, ToolDefinition
from agentkit.tools.function import FunctionToolset, ToolOptions, tool
from agentkit.tools.tool import Tool, ToolOutput
from agentkit.tools.toolset import Toolset
from agentkit.usage import RequestUsage, RunUsage

if TYPE_CHECKING:
    from agentkit.guardrails.guardrail import (
        input_guardrail,
        output_guardrail,
        tool_call_guardrail,
        tool_result_guardrail,
    )
    from agentkit.guardrails.verdicts import Allow, Block, RequireApproval, Rewrite
    from agentkit.history.compaction import SlidingWindow, Summary
    from agentkit.mcp.config import load_mcp_config
    from agentkit.mcp.toolset import MCPToolset
    from agentkit.middleware import Middleware
    from agentkit.models.fallback import FallbackModel
    from agentkit.models.local.model import LocalModel
    from agentkit.models.openai.model import OpenAICompatibleModel
    from agentkit.persistence.sqlite_checkpointer import SQLiteCheckpointer
    from agentkit.persistence.sqlite_session import SQLiteSession
    from agentkit.planning.planner import ModelPlanner, PlanTemplate
    from agentkit.teams.handoffs import Handoff
    from agentkit.tools.code_mode import CodeMode

__all__ = [
    "Agent",
    "AgentEvent",
    "AgentKitError",
    "AgentRunError",
    "AgentStream",
    "Allow",
    "ApprovalRequired",
    "Block",
    "CheckpointError",
    "CodeMode",
    "ContextWindowExceeded",
    "FallbackModel",
    "FunctionToolset",
    "Handoff",
    "LocalModel",
    "MCPConnectionError",
    "MCPToolset",
    "Middleware",
    "Model",
    "ModelError",
    "ModelMessage",
    "ModelPlanner",
    "ModelProfile",
    "ModelRequest",
    "ModelResponse",
    "ModelRetry",
    "ModelSettings",
    "NoOutputError",
    "OpenAICompatibleModel",
    "PlanTemplate",
    "RequestUsage",
    "RequireApproval",
    "ResumeOptions",
    "RetryPromptPart",
    "Rewrite",
    "RunContext",
    "RunOptions",
    "RunResult",
    "RunState",
    "RunUsage",
    "SQLiteCheckpointer",
    "SQLiteSession",
    "SlidingWindow",
    "Summary",
    "SyncAgentStream",
    "SystemPromptPart",
    "TextPart",
    "ThinkingPart",
    "Tool",
    "ToolAnnotations",
    "ToolCallPart",
    "ToolDefinition",
    "ToolExecutionError",
    "ToolFailed",
    "ToolOptions",
    "ToolOutput",
    "ToolReturnPart",
    "Toolset",
    "UnexpectedModelBehavior",
    "UsageLimits",
    "UserError",
    "UserPromptPart",
    "input_guardrail",
    "load_mcp_config",
    "messages_from_json",
    "messages_to_json",
    "output_guardrail",
    "tool",
    "tool_call_guardrail",
    "tool_result_guardrail",
]

_LAZY = {
    "Allow": "agentkit.guardrails.verdicts",
    "Block": "agentkit.guardrails.verdicts",
    "CodeMode": "agentkit.tools.code_mode",
    "FallbackModel": "agentkit.models.fallback",
    "Handoff": "agentkit.teams.handoffs",
    "LocalModel": "agentkit.models.local.model",
    "MCPToolset": "agentkit.mcp.toolset",
    "Middleware": "agentkit.middleware",
    "ModelPlanner": "agentkit.planning.planner",
    "OpenAICompatibleModel": "agentkit.models.openai.model",
    "PlanTemplate": "agentkit.planning.planner",
    "RequireApproval": "agentkit.guardrails.verdicts",
    "Rewrite": "agentkit.guardrails.verdicts",
    "SQLiteCheckpointer": "agentkit.persistence.sqlite_checkpointer",
    "SQLiteSession": "agentkit.persistence.sqlite_session",
    "SlidingWindow": "agentkit.history.compaction",
    "Summary": "agentkit.history.compaction",
    "input_guardrail": "agentkit.guardrails.guardrail",
    "load_mcp_config": "agentkit.mcp.config",
    "output_guardrail": "agentkit.guardrails.guardrail",
    "tool_call_guardrail": "agentkit.guardrails.guardrail",
    "tool_result_guardrail": "agentkit.guardrails.guardrail",
}


def __getattr__(name: str) -> Any:
    """Import the models and the MCP client on first access."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
