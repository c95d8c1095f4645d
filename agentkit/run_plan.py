"""Everything about a run that is settled before it starts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from agentkit.context import RunContext
from agentkit.events import AgentEvent
from agentkit.limits import UsageLimits
from agentkit.messages import ModelRequest
from agentkit.models.model import Model, ModelSettings
from agentkit.output import OutputSpec
from agentkit.state import RunState
from agentkit.tools.toolset import Toolset

if TYPE_CHECKING:
    from agentkit.code_mode import CodeMode
    from agentkit.compaction import Compaction
    from agentkit.guardrails.guardrail import Guardrail, GuardrailSource
    from agentkit.handoffs import Team
    from agentkit.persistence.checkpointer import Checkpointer, RunJournal
    from agentkit.persistence.session import Session
    from agentkit.planning.planner import Planner

DepsT = TypeVar("DepsT")
OutputT = TypeVar("OutputT")
Sink = Callable[[AgentEvent], None]
OutputValidator = Callable[[RunContext[Any], Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class RunPlan(Generic[DepsT, OutputT]):
    """Everything about a run that is settled before it starts."""

    model: Model
    toolsets: tuple[Toolset, ...]
    output: OutputSpec[OutputT]
    output_validators: tuple[OutputValidator, ...]
    request: ModelRequest | None
    """What the run begins with; None where a stored run goes on."""
    state: RunState
    deps: DepsT
    agent_name: str | None
    limits: UsageLimits
    retries: int
    tool_timeout_s: float | None
    settings: ModelSettings
    parallel_tool_calls: bool
    sinks: tuple[Sink, ...]
    planner: Planner | None = None
    compaction: Compaction | None = None
    guardrails: tuple[Guardrail | GuardrailSource, ...] = ()
    taint_rule: bool = False
    """Whether there is one besides those among the guardrails."""
    checkpointer: Checkpointer | None = None
    """Where a new run's journal is begun."""
    metadata: Mapping[str, str] | None = None
    session: Session | None = None
    """Where what the run says is kept once it has ended."""
    session_version: str | None = None
    journal: RunJournal | None = None
    """Of the stored run that goes on."""
    handoffs: Mapping[str, str] = field(default_factory=dict[str, str])
    """As in `LoopRules`."""
    code_mode: CodeMode | None = None
    """How the model calls its tools from code; None where it calls them itself."""
    team: Team | None = None
    """The agents that the run can be handed over to."""

    def handed_to(self, other: RunPlan[Any, Any]) -> RunPlan[Any, Any]:
        """Return the plan of an agent that takes this run over: what belongs to the run stays."""
        return replace(
            other,
            request=self.request,
            state=self.state,
            deps=self.deps,
            limits=self.limits,
            sinks=self.sinks,
            guardrails=tuple(dict.fromkeys((*self.guardrails, *other.guardrails))),
            taint_rule=self.taint_rule or other.taint_rule,
            checkpointer=self.checkpointer,
            metadata=self.metadata,
            session=self.session,
            session_version=self.session_version,
            journal=self.journal,
            team=self.team,
        )


Enter = Callable[[RunPlan[Any, Any]], Awaitable[None]]
"""Enters a plan's model and toolsets, to be left when the run ends."""
