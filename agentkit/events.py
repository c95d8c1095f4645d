"""Everything that happens in a run, as one discriminated union with the field `event_kind`.

Only the runner emits events. They are frozen and JSON-able: the trace file is these events, one a line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from agentkit.approvals import PendingCall
from agentkit.limits import RunUsage
from agentkit.messages import ModelRequest, ModelResponse
from agentkit.models.model import ModelSettings, OutputSchema, TokensDelta
from agentkit.planning.plan import PlanStep
from agentkit.state import Compacted
from agentkit.tagged import TaggedBy
from agentkit.tools.definition import ToolDefinition

VerdictKind = Literal["allow", "block", "rewrite", "require_approval"]


@dataclass(frozen=True, slots=True)
class RunStartedEvent:
    """A run begins."""

    run_id: str
    agent_name: str | None
    model_name: str
    tools: tuple[str, ...]
    n_history: int = 0
    """How many messages of earlier runs the conversation begins with; no event of this run holds them."""
    event_kind: Literal["run_started"] = "run_started"


@dataclass(frozen=True, slots=True)
class RunResumedEvent:
    """A stored run goes on, in this process or another one."""

    run_id: str
    agent_name: str | None
    model_name: str
    tools: tuple[str, ...]
    step: int
    """Model responses that are stored; what a trace holds beyond them is made anew."""
    event_kind: Literal["run_resumed"] = "run_resumed"


@dataclass(frozen=True, slots=True)
class RequestShape:
    """What a request says besides messages and tools."""

    output: OutputSchema | None
    settings: ModelSettings
    parallel_tool_calls: bool


@dataclass(frozen=True, slots=True)
class ModelRequestEvent:
    """Messages were added and the model is asked."""

    step: int
    messages: tuple[ModelRequest, ...]
    """Only the new ones: those since the last response."""
    allowed_tools: tuple[str, ...]
    tools: tuple[ToolDefinition, ...] | None = None
    """What the model is told of its tools: with the first request, then where the list has changed; else None."""
    tool_choice: Literal["auto", "required", "none"] = "auto"
    shape: RequestShape | None = None
    """What else the request says: with the first one, then where it has changed; else None."""
    note: str | None = None
    """Text at the end of this request only, which the history does not keep (`agentkit.limit_note`)."""
    event_kind: Literal["model_request"] = "model_request"


@dataclass(frozen=True, slots=True)
class TextDeltaEvent:
    """More text of the answer."""

    text: str
    event_kind: Literal["text_delta"] = "text_delta"


@dataclass(frozen=True, slots=True)
class ThinkingDeltaEvent:
    """More reasoning text."""

    text: str
    event_kind: Literal["thinking_delta"] = "thinking_delta"


@dataclass(frozen=True, slots=True)
class ToolCallDeltaEvent:
    """More of a tool call that is being written."""

    index: int
    tool_name: str | None
    arguments: str
    event_kind: Literal["tool_call_delta"] = "tool_call_delta"


@dataclass(frozen=True, slots=True)
class ModelResponseEvent:
    """The model answered."""

    step: int
    response: ModelResponse
    duration_s: float
    tokens: TokensDelta | None = None
    """Of a model in this process."""
    event_kind: Literal["model_response"] = "model_response"


@dataclass(frozen=True, slots=True)
class ToolCallEvent:
    """A tool is about to run."""

    tool_name: str
    tool_call_id: str
    arguments: str
    probability: float | None = None
    event_kind: Literal["tool_call"] = "tool_call"


@dataclass(frozen=True, slots=True)
class ToolProgressEvent:
    """A running tool reports how far it is."""

    tool_name: str
    tool_call_id: str
    progress: float
    total: float | None = None
    message: str | None = None
    event_kind: Literal["tool_progress"] = "tool_progress"


@dataclass(frozen=True, slots=True)
class ToolResultEvent:
    """A tool call ended, well or not."""

    tool_name: str
    tool_call_id: str
    content: str
    outcome: Literal["success", "retry", "failed", "timeout", "not_run"]
    duration_s: float
    data: Any = None
    event_kind: Literal["tool_result"] = "tool_result"


@dataclass(frozen=True, slots=True)
class GuardrailEvent:
    """A guardrail has decided. Streaming checks of a growing answer are told of only where they block."""

    stage: Literal["input", "tool_call", "tool_result", "output"]
    name: str
    verdict: VerdictKind
    reason: str
    duration_s: float
    tool_name: str | None = None
    tool_call_id: str | None = None
    event_kind: Literal["guardrail"] = "guardrail"


@dataclass(frozen=True, slots=True)
class ApprovalRequestedEvent:
    """A call waits for somebody's decision; the run stops."""

    call: PendingCall
    event_kind: Literal["approval_requested"] = "approval_requested"


@dataclass(frozen=True, slots=True)
class PlanEvent:
    """A plan was made, or revised."""

    steps: tuple[PlanStep, ...] | None
    """The new ones; None where the current step is left out."""
    reason: str | None = None
    """Why the plan was revised; None for the first one."""
    event_kind: Literal["plan"] = "plan"


@dataclass(frozen=True, slots=True)
class CompactionEvent:
    """The model is shown a note in the place of the conversation's middle from now on."""

    compacted: Compacted
    event_kind: Literal["compaction"] = "compaction"


@dataclass(frozen=True, slots=True)
class HandoffEvent:
    """Another agent goes on with the run."""

    from_agent: str | None
    to_agent: str
    model_name: str
    tools: tuple[str, ...]
    opening: tuple[Annotated[ModelRequest | ModelResponse, TaggedBy("kind")], ...]
    """What it is shown of the conversation so far."""
    event_kind: Literal["handoff"] = "handoff"


@dataclass(frozen=True, slots=True)
class LimitReachedEvent:
    """A usage limit was reached; the model is asked for a last answer without calls."""

    limit: str
    event_kind: Literal["limit_reached"] = "limit_reached"


@dataclass(frozen=True, slots=True)
class RunFinishedEvent:
    """A run ended with a result."""

    run_id: str
    status: str
    output: Any
    usage: RunUsage
    confidence: float | None
    duration_s: float
    event_kind: Literal["run_finished"] = "run_finished"


@dataclass(frozen=True, slots=True)
class RunFailedEvent:
    """A run ended with an error."""

    run_id: str
    error_type: str
    error: str
    usage: RunUsage
    event_kind: Literal["run_failed"] = "run_failed"


@dataclass(frozen=True, slots=True)
class RewardEvent:
    """What a run, or one of its steps, was worth; added to a trace afterwards, by whoever judges it."""

    reward: float
    source: str
    """Who says so: a checker's name, a person."""
    step: int | None = None
    """From 1; None for the whole run."""
    event_kind: Literal["reward"] = "reward"


AgentEvent = Annotated[
    RunStartedEvent
    | RunResumedEvent
    | ModelRequestEvent
    | TextDeltaEvent
    | ThinkingDeltaEvent
    | ToolCallDeltaEvent
    | ModelResponseEvent
    | ToolCallEvent
    | ToolProgressEvent
    | ToolResultEvent
    | GuardrailEvent
    | ApprovalRequestedEvent
    | PlanEvent
    | CompactionEvent
    | HandoffEvent
    | LimitReachedEvent
    | RunFinishedEvent
    | RunFailedEvent
    | RewardEvent,
    TaggedBy("event_kind"),
]
