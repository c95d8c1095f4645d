"""An agent SDK that owns its model: `from agentkit import Agent`.

Each public name has one defining module and can be imported from here. Heavy parts are loaded on first use:
importing this package loads no model, no HTTP client, no MCP client, and neither pydantic nor anyio. The first
tool and the first run load these two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentkit.agent import Agent
from agentkit.approvals.pending import (
    Approve,
    Deny,
    PendingCall,
    Settle,
)
from agentkit.context import RunContext
from agentkit.errors import (
    AgentKitError,
    AgentRunError,
    ApprovalRequired,
    CheckpointError,
    ContextWindowExceeded,
    MCPAuthorizationRequired,
    MCPConnectionError,
    MCPRequestError,
    ModelConnectionError,
    ModelError,
    ModelHTTPError,
    ModelRetry,
    ModelTimeout,
    NoOutputError,
    ToolDefinitionChanged,
    ToolDefinitionError,
    ToolExecutionError,
    ToolFailed,
    UnexpectedModelBehavior,
    UserError,
)
from agentkit.events import (
    AgentEvent,
    ApprovalRequestedEvent,
    CancelRequestedEvent,
    CompactionEvent,
    DecisionEvent,
    GuardrailEvent,
    HandoffEvent,
    LimitReachedEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    PlanEvent,
    RepeatedCallEvent,
    ResumeRequestedEvent,
    RewardEvent,
    RunFailedEvent,
    RunFinishedEvent,
    RunRequestedEvent,
    RunResumedEvent,
    RunStartedEvent,
    SideRequestEvent,
    TextCallsEvent,
    TextDeltaEvent,
    ThinkingDeltaEvent,
    ToolCallDeltaEvent,
    ToolCallEvent,
    ToolProgressEvent,
    ToolResultEvent,
)
from agentkit.files import FileLimits, read_file
from agentkit.limits import UsageLimits
from agentkit.messages import (
    Addition,
    BinaryContent,
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
from agentkit.models.base import (
    Model,
    ModelProfile,
    ModelSettings,
    block_model_requests,
)
from agentkit.models.model_price import ModelPrice
from agentkit.results import RunResult
from agentkit.run.agent_run import AgentRun
from agentkit.run.setup import (
    ResumeOptions,
    RunOptions,
)
from agentkit.run.state import RunState
from agentkit.run.stream import (
    AgentStream,
    SyncAgentStream,
)
from agentkit.tools.definition import (
    ToolAnnotations,
    ToolDefinition,
)
from agentkit.tools.function import (
    FunctionToolset,
    ToolOptions,
    function_tool,
    tool,
)
from agentkit.tools.tool import (
    Tool,
    ToolOutput,
)
from agentkit.tools.toolset import Toolset
from agentkit.usage import (
    RequestUsage,
    RunUsage,
)

if TYPE_CHECKING:
    from agentkit.guardrails.classifiers import SafetyClassifier
    from agentkit.guardrails.guardrail import (
        Guardrail,
        input_guardrail,
        output_guardrail,
        tool_call_guardrail,
        tool_result_guardrail,
    )
    from agentkit.guardrails.rules import (
        AskWhenUnsure,
        HiddenCharacters,
        InjectionWords,
        TaintRule,
    )
    from agentkit.guardrails.verdicts import (
        Allow,
        Block,
        RequireApproval,
        Rewrite,
    )
    from agentkit.history.compaction import (
        Compaction,
        SlidingWindow,
        Summary,
    )
    from agentkit.mcp.config import load_mcp_config
    from agentkit.mcp.oauth.options import OAuth
    from agentkit.mcp.pins import ToolPins
    from agentkit.mcp.toolset import MCPToolset
    from agentkit.memory.toolset import Memory
    from agentkit.middleware import Middleware
    from agentkit.models.anthropic.model import AnthropicModel
    from agentkit.models.calibration import CalibratedModel
    from agentkit.models.fallback import FallbackModel
    from agentkit.models.google.model import GeminiModel
    from agentkit.models.local.model import LocalModel
    from agentkit.models.openai.model import OpenAICompatibleModel
    from agentkit.models.openai.responses import OpenAIResponsesModel
    from agentkit.models.resolve import resolve_model
    from agentkit.persistence.checkpointer import Checkpointer
    from agentkit.persistence.in_memory_checkpointer import InMemoryCheckpointer
    from agentkit.persistence.session import (
        InMemorySession,
        Session,
    )
    from agentkit.persistence.sqlite_checkpointer import SQLiteCheckpointer
    from agentkit.persistence.sqlite_session import SQLiteSession
    from agentkit.planning.plan import (
        Plan,
        PlanStep,
    )
    from agentkit.planning.planner import (
        ModelPlanner,
        Planner,
        PlanTemplate,
        TemplateStep,
    )
    from agentkit.skills.toolset import Skills
    from agentkit.teams.handoffs import Handoff
    from agentkit.testing.models import (
        FunctionModel,
        ScriptedModel,
        TestModel,
    )
    from agentkit.testing.replay import ReplayModel
    from agentkit.tools.code_mode import CodeMode
    from agentkit.tools.tool_search.toolset import ToolSearch
    from agentkit.tracing.telemetry import Telemetry
    from agentkit.workspace.toolset import Workspace

__all__ = [
    "Addition",
    "Agent",
    "AgentEvent",
    "AgentKitError",
    "AgentRun",
    "AgentRunError",
    "AgentStream",
    "Allow",
    "AnthropicModel",
    "ApprovalRequestedEvent",
    "ApprovalRequired",
    "Approve",
    "AskWhenUnsure",
    "BinaryContent",
    "Block",
    "CalibratedModel",
    "CancelRequestedEvent",
    "CheckpointError",
    "Checkpointer",
    "CodeMode",
    "Compaction",
    "CompactionEvent",
    "ContextWindowExceeded",
    "DecisionEvent",
    "Deny",
    "FallbackModel",
    "FileLimits",
    "FunctionModel",
    "FunctionToolset",
    "GeminiModel",
    "Guardrail",
    "GuardrailEvent",
    "Handoff",
    "HandoffEvent",
    "HiddenCharacters",
    "InMemoryCheckpointer",
    "InMemorySession",
    "InjectionWords",
    "LimitReachedEvent",
    "LocalModel",
    "MCPAuthorizationRequired",
    "MCPConnectionError",
    "MCPRequestError",
    "MCPToolset",
    "Memory",
    "Middleware",
    "Model",
    "ModelConnectionError",
    "ModelError",
    "ModelHTTPError",
    "ModelMessage",
    "ModelPlanner",
    "ModelPrice",
    "ModelProfile",
    "ModelRequest",
    "ModelRequestEvent",
    "ModelResponse",
    "ModelResponseEvent",
    "ModelRetry",
    "ModelSettings",
    "ModelTimeout",
    "NoOutputError",
    "OAuth",
    "OpenAICompatibleModel",
    "OpenAIResponsesModel",
    "PendingCall",
    "Plan",
    "PlanEvent",
    "PlanStep",
    "PlanTemplate",
    "Planner",
    "RepeatedCallEvent",
    "ReplayModel",
    "RequestUsage",
    "RequireApproval",
    "ResumeOptions",
    "ResumeRequestedEvent",
    "RetryPromptPart",
    "RewardEvent",
    "Rewrite",
    "RunContext",
    "RunFailedEvent",
    "RunFinishedEvent",
    "RunOptions",
    "RunRequestedEvent",
    "RunResult",
    "RunResumedEvent",
    "RunStartedEvent",
    "RunState",
    "RunUsage",
    "SQLiteCheckpointer",
    "SQLiteSession",
    "SafetyClassifier",
    "ScriptedModel",
    "Session",
    "Settle",
    "SideRequestEvent",
    "Skills",
    "SlidingWindow",
    "Summary",
    "SyncAgentStream",
    "SystemPromptPart",
    "TaintRule",
    "Telemetry",
    "TemplateStep",
    "TestModel",
    "TextCallsEvent",
    "TextDeltaEvent",
    "TextPart",
    "ThinkingDeltaEvent",
    "ThinkingPart",
    "Tool",
    "ToolAnnotations",
    "ToolCallDeltaEvent",
    "ToolCallEvent",
    "ToolCallPart",
    "ToolDefinition",
    "ToolDefinitionChanged",
    "ToolDefinitionError",
    "ToolExecutionError",
    "ToolFailed",
    "ToolOptions",
    "ToolOutput",
    "ToolPins",
    "ToolProgressEvent",
    "ToolResultEvent",
    "ToolReturnPart",
    "ToolSearch",
    "Toolset",
    "UnexpectedModelBehavior",
    "UsageLimits",
    "UserError",
    "UserPromptPart",
    "Workspace",
    "block_model_requests",
    "function_tool",
    "input_guardrail",
    "load_mcp_config",
    "messages_from_json",
    "messages_to_json",
    "output_guardrail",
    "read_file",
    "resolve_model",
    "tool",
    "tool_call_guardrail",
    "tool_result_guardrail",
]

_LAZY = {
    "Allow": "agentkit.guardrails.verdicts",
    "AnthropicModel": "agentkit.models.anthropic.model",
    "AskWhenUnsure": "agentkit.guardrails.rules",
    "Block": "agentkit.guardrails.verdicts",
    "CalibratedModel": "agentkit.models.calibration",
    "Checkpointer": "agentkit.persistence.checkpointer",
    "CodeMode": "agentkit.tools.code_mode",
    "Compaction": "agentkit.history.compaction",
    "FallbackModel": "agentkit.models.fallback",
    "FunctionModel": "agentkit.testing.models",
    "GeminiModel": "agentkit.models.google.model",
    "Guardrail": "agentkit.guardrails.guardrail",
    "Handoff": "agentkit.teams.handoffs",
    "HiddenCharacters": "agentkit.guardrails.rules",
    "InMemoryCheckpointer": "agentkit.persistence.in_memory_checkpointer",
    "InMemorySession": "agentkit.persistence.session",
    "InjectionWords": "agentkit.guardrails.rules",
    "LocalModel": "agentkit.models.local.model",
    "MCPToolset": "agentkit.mcp.toolset",
    "Memory": "agentkit.memory.toolset",
    "Middleware": "agentkit.middleware",
    "ModelPlanner": "agentkit.planning.planner",
    "OAuth": "agentkit.mcp.oauth.options",
    "OpenAICompatibleModel": "agentkit.models.openai.model",
    "OpenAIResponsesModel": "agentkit.models.openai.responses",
    "Plan": "agentkit.planning.plan",
    "PlanStep": "agentkit.planning.plan",
    "PlanTemplate": "agentkit.planning.planner",
    "Planner": "agentkit.planning.planner",
    "ReplayModel": "agentkit.testing.replay",
    "RequireApproval": "agentkit.guardrails.verdicts",
    "Rewrite": "agentkit.guardrails.verdicts",
    "SQLiteCheckpointer": "agentkit.persistence.sqlite_checkpointer",
    "SQLiteSession": "agentkit.persistence.sqlite_session",
    "SafetyClassifier": "agentkit.guardrails.classifiers",
    "ScriptedModel": "agentkit.testing.models",
    "Session": "agentkit.persistence.session",
    "Skills": "agentkit.skills.toolset",
    "SlidingWindow": "agentkit.history.compaction",
    "Summary": "agentkit.history.compaction",
    "TaintRule": "agentkit.guardrails.rules",
    "Telemetry": "agentkit.tracing.telemetry",
    "TemplateStep": "agentkit.planning.planner",
    "TestModel": "agentkit.testing.models",
    "ToolPins": "agentkit.mcp.pins",
    "ToolSearch": "agentkit.tools.tool_search.toolset",
    "Workspace": "agentkit.workspace.toolset",
    "input_guardrail": "agentkit.guardrails.guardrail",
    "load_mcp_config": "agentkit.mcp.config",
    "output_guardrail": "agentkit.guardrails.guardrail",
    "resolve_model": "agentkit.models.resolve",
    "tool_call_guardrail": "agentkit.guardrails.guardrail",
    "tool_result_guardrail": "agentkit.guardrails.guardrail",
}
"""Defining modules of the names that are imported on first access."""


def __getattr__(name: str) -> Any:
    """Import a name on first access.

    Raises:
        AttributeError: the name is unknown; the message has the nearest one.
        ImportError: the same, for `from agentkit import NAME`.
    """
    if name in _LAZY:
        from importlib import import_module

        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import inspect
    import opcode

    from agentkit.basics.near_names import near_names

    near = near_names(name, __all__)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    caller = inspect.currentframe()
    caller = caller.f_back if caller is not None else None
    # Python replaces an AttributeError of `from agentkit import NAME` by its own ImportError, without the hint.
    if caller is not None and caller.f_code.co_code[caller.f_lasti] == opcode.opmap["IMPORT_FROM"]:
        raise ImportError(f"cannot import name {name!r} from {__name__!r}{hint}", name=__name__, path=__file__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}", name=name)


def __dir__() -> list[str]:
    """Return all names, those that are not imported yet included."""
    return sorted({*globals(), *__all__})
