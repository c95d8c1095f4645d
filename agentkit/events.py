"""Events of a run, one discriminated union with the field `event_kind`.

Events are frozen and JSON-serialisable: the trace file contains these events, one per line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from agentkit.approvals.pending import PendingCall
from agentkit.basics.tagged import TaggedBy
from agentkit.messages import Content, FileReference, ModelRequest, ModelResponse
from agentkit.models.base import ModelSettings, OutputSchema, TokensDelta
from agentkit.planning.plan import PlanStep
from agentkit.run.state import Compacted
from agentkit.tools.definition import ToolDefinition
from agentkit.usage import RunUsage

LEFT_EARLY = "LeftEarly"
"""Error type of a run that the application did not advance to the end."""
VerdictKind = Literal["allow", "block", "rewrite", "require_approval"]


@dataclass(frozen=True, slots=True)
class RunStartedEvent:
    """A run begins."""

    run_id: str
    agent_name: str | None
    model_name: str
    tools: tuple[str, ...]
    n_history: int = 0
    """Number of messages of earlier runs at the beginning; no event of this run contains them."""
    provider_name: str | None = None
    """The model's provider in OpenTelemetry's terms; None in older traces."""
    adapter: str | None = None
    """Name and hash of the adapter on the model's weights; None without one, and in older traces."""
    event_kind: Literal["run_started"] = "run_started"


@dataclass(frozen=True, slots=True)
class RunResumedEvent:
    """A stored run was resumed, in this process or another one."""

    run_id: str
    agent_name: str | None
    model_name: str
    tools: tuple[str, ...]
    step: int
    """Number of stored model responses; later ones in a trace are requested again."""
    provider_name: str | None = None
    """See `RunStartedEvent`."""
    adapter: str | None = None
    """See `RunStartedEvent`."""
    event_kind: Literal["run_resumed"] = "run_resumed"


@dataclass(frozen=True, slots=True)
class RequestShape:
    """Fields of a request besides messages and tools."""

    output: OutputSchema | None
    settings: ModelSettings
    parallel_tool_calls: bool


@dataclass(frozen=True, slots=True)
class ModelRequestEvent:
    """A request is sent to the model."""

    step: int
    messages: tuple[ModelRequest, ...]
    """New messages since the last response. The first message of a run begins with the instructions."""
    allowed_tools: tuple[str, ...]
    tools: tuple[ToolDefinition, ...] | None = None
    """Tool definitions sent to the model: in the first request and after a change of the list; else None."""
    tool_choice: Literal["auto", "required", "none"] = "auto"
    shape: RequestShape | None = None
    """Other fields of the request: in the first request and after a change; else None."""
    note: str | None = None
    """Text at the end of this request only; not part of the history (`agentkit.run.instructions`)."""
    instructions: str | None = None
    """The agent's instructions if `messages` do not contain them: after a history, and after a change since the
    last request ("" if they were removed); else None."""
    sent: tuple[Annotated[ModelRequest | ModelResponse, TaggedBy("kind")], ...] | None = None
    """All messages as they were sent, with instructions and note, if a history processor or middleware changed
    them; None: the conversation. A further event with the same step is another attempt of middleware."""
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
    """Token ids from a model in this process; else None."""
    received: tuple[ModelResponse, ...] | None = None
    """All replies of the model in this step, if middleware asked again, answered itself or changed the reply.

    None: `response` is the model's only reply.
    """
    event_kind: Literal["model_response"] = "model_response"


@dataclass(frozen=True, slots=True)
class TextCallsEvent:
    """A model wrote calls of known tools as text; see `agentkit.run.text_calls`.

    Parsed calls are in the following response event and replace the text there. If `n_calls` is 0 and `problem`
    is None, the calls appear within prose, and the text is the answer.
    """

    text: str
    tool_names: tuple[str, ...]
    n_calls: int
    """Number of parsed calls."""
    problem: str | None = None
    """Reason why a text that begins like calls could not be parsed."""
    event_kind: Literal["text_calls"] = "text_calls"


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
    """A running tool reports progress."""

    tool_name: str
    tool_call_id: str
    progress: float
    total: float | None = None
    message: str | None = None
    event_kind: Literal["tool_progress"] = "tool_progress"


@dataclass(frozen=True, slots=True)
class ToolResultEvent:
    """A tool call ended, successfully or not."""

    tool_name: str
    tool_call_id: str
    content: str
    outcome: Literal["success", "retry", "failed", "timeout", "not_run"]
    duration_s: float
    data: Any = None
    error: str | None = None
    """Class and whole message of an exception that the tool did not declare; `content` has the cleaned form."""
    files: tuple[FileReference, ...] = ()
    """Files of the result, which `content` names."""
    event_kind: Literal["tool_result"] = "tool_result"


@dataclass(frozen=True, slots=True)
class GuardrailEvent:
    """A guardrail decided. Streaming checks of a growing answer are reported only if they block."""

    stage: Literal["input", "tool_call", "tool_result", "output"]
    name: str
    verdict: VerdictKind
    reason: str
    duration_s: float
    tool_name: str | None = None
    tool_call_id: str | None = None
    event_kind: Literal["guardrail"] = "guardrail"


@dataclass(frozen=True, slots=True)
class RepeatedCallEvent:
    """A call was not run because it repeats another one."""

    tool_name: str
    tool_call_id: str
    repeats: str
    """Id of the call that has the result, in the same response or an earlier one."""
    kind: Literal["copied", "told", "withdrawn"]
    """Reason why the call did not run.

    - "copied": it equals another call of its response.
    - "told": equal calls returned the same result twice before; the model is told so.
    - "withdrawn": the model repeated the call after it was told; the tool is no longer callable.
    """
    event_kind: Literal["repeated_call"] = "repeated_call"


@dataclass(frozen=True, slots=True)
class ApprovalRequestedEvent:
    """A call waits for a decision, or for its result (kind "external"); the run stops."""

    call: PendingCall
    event_kind: Literal["approval_requested"] = "approval_requested"


@dataclass(frozen=True, slots=True)
class PlanEvent:
    """A plan was made, or revised."""

    steps: tuple[PlanStep, ...] | None
    """The new steps; None if the current step is skipped instead."""
    reason: str | None = None
    """Reason for the revision; None for the first plan."""
    event_kind: Literal["plan"] = "plan"


@dataclass(frozen=True, slots=True)
class CompactionEvent:
    """Following requests contain a note in place of the middle of the conversation."""

    compacted: Compacted
    event_kind: Literal["compaction"] = "compaction"


@dataclass(frozen=True, slots=True)
class SideRequestEvent:
    """A model answered a request outside the conversation; its usage counts for the run."""

    purpose: Literal["plan", "summary"]
    model_name: str
    messages: tuple[Annotated[ModelRequest | ModelResponse, TaggedBy("kind")], ...]
    """The whole request."""
    response: ModelResponse
    duration_s: float
    provider_name: str | None = None
    """See `RunStartedEvent`."""
    adapter: str | None = None
    """See `RunStartedEvent`."""
    event_kind: Literal["side_request"] = "side_request"


@dataclass(frozen=True, slots=True)
class HandoffEvent:
    """A hand-off: the run continues with a different agent."""

    from_agent: str | None
    to_agent: str
    model_name: str
    tools: tuple[str, ...]
    opening: tuple[Annotated[ModelRequest | ModelResponse, TaggedBy("kind")], ...]
    """Earlier conversation that the new agent sees."""
    provider_name: str | None = None
    """See `RunStartedEvent`."""
    adapter: str | None = None
    """See `RunStartedEvent`."""
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
    """Lowest probability of any choice between tools in the run; see `RunResult.confidence`."""
    duration_s: float
    event_kind: Literal["run_finished"] = "run_finished"


@dataclass(frozen=True, slots=True)
class RunFailedEvent:
    """A run ended with an error, was cancelled, or was abandoned by the application."""

    run_id: str
    error_type: str
    """The error's class; `LEFT_EARLY` if the application left `agent.iter(...)` before the end."""
    error: str
    usage: RunUsage
    event_kind: Literal["run_failed"] = "run_failed"


@dataclass(frozen=True, slots=True)
class RewardEvent:
    """Reward of a run or of one of its steps; a grader adds it to a trace afterwards."""

    reward: float
    source: str
    """Name of the grader: a checker or a person."""
    step: int | None = None
    """Number of the step, from 1; None for the whole run."""
    event_kind: Literal["reward"] = "reward"


@dataclass(frozen=True, slots=True)
class RunRequestedEvent:
    """A client of a server asked for a run (`agentkit.serving`); its first event."""

    run_id: str
    prompt: Content
    session: str | None = None
    """The client's name of the conversation that the run continues; None: a conversation of its own."""
    deadline: float | None = None
    """Time at which the run is cancelled, in seconds since 1970; None: never."""
    history: tuple[Annotated[ModelRequest | ModelResponse, TaggedBy("kind")], ...] = ()
    """Earlier conversation that the client gave; empty with a session, which has it."""
    tools: tuple[ToolDefinition, ...] = ()
    """Tools that the client runs itself, besides the agent's own."""
    event_kind: Literal["run_requested"] = "run_requested"


@dataclass(frozen=True, slots=True)
class DecisionEvent:
    """A client decided about a call that waits."""

    tool_call_id: str
    decision: Literal["approve", "deny", "settle"]
    by: str
    """Name of the key of the client that decided."""
    event_kind: Literal["decision"] = "decision"


@dataclass(frozen=True, slots=True)
class CancelRequestedEvent:
    """A client asked to cancel a run."""

    by: str
    """Name of the client's key."""
    event_kind: Literal["cancel_requested"] = "cancel_requested"


@dataclass(frozen=True, slots=True)
class ResumeRequestedEvent:
    """A client asked to continue a run that had failed."""

    by: str
    """Name of the client's key."""
    deadline: float | None = None
    """Time at which the run is cancelled now, in seconds since 1970; None: never."""
    event_kind: Literal["resume_requested"] = "resume_requested"


AgentEvent = Annotated[
    RunStartedEvent
    | RunResumedEvent
    | ModelRequestEvent
    | TextDeltaEvent
    | ThinkingDeltaEvent
    | ToolCallDeltaEvent
    | ModelResponseEvent
    | TextCallsEvent
    | ToolCallEvent
    | ToolProgressEvent
    | ToolResultEvent
    | GuardrailEvent
    | RepeatedCallEvent
    | ApprovalRequestedEvent
    | PlanEvent
    | CompactionEvent
    | SideRequestEvent
    | HandoffEvent
    | LimitReachedEvent
    | RunFinishedEvent
    | RunFailedEvent
    | RewardEvent
    | RunRequestedEvent
    | DecisionEvent
    | CancelRequestedEvent
    | ResumeRequestedEvent,
    TaggedBy("event_kind"),
]
"""Any event of a run, told apart by `event_kind`."""
