"""Configuration of a run, fixed before it starts, and the options that an application gives for one run.

`RunOptions` are keyword arguments of `Agent.run` and its siblings, or one dict that is passed to them. The list is
written once: type checkers see it, and an unknown name is checked against it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar

from agentkit.basics.near_names import near_names
from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.events import AgentEvent
from agentkit.files import FileLimits
from agentkit.limits import UsageLimits
from agentkit.messages import ModelMessage, ModelRequest
from agentkit.models.base import Model, ModelSettings
from agentkit.models.model_price import ModelPrice, Prices
from agentkit.output import OutputSpec
from agentkit.run.argument_checks import check_arguments
from agentkit.run.instructions import Instructions
from agentkit.run.state import RunState
from agentkit.tools.tool import OnToolError
from agentkit.tools.toolset import Toolset

if TYPE_CHECKING:
    from agentkit.guardrails.guardrail import Guardrail, GuardrailSource
    from agentkit.history.compaction import Compaction
    from agentkit.history.processors import HistoryProcessor
    from agentkit.middleware import Middleware
    from agentkit.persistence.checkpointer import Checkpointer, RunJournal
    from agentkit.persistence.outbox import Outbox
    from agentkit.persistence.session import Session
    from agentkit.planning.planner import Planner
    from agentkit.run.budget import Budget
    from agentkit.tools.code_mode import CodeMode
    from agentkit.tools.prepare import PrepareTools

DepsT = TypeVar("DepsT")
OutputT = TypeVar("OutputT")
Sink = Callable[[AgentEvent], None]
OutputValidator = Callable[[RunContext[Any], Any], Any]
"""Maps a parsed answer to the output; plain or coroutine function."""

HistoryFilter = Callable[[Sequence[ModelMessage]], Sequence[ModelMessage]]
"""Maps the previous agent's view of a conversation, without the hand-off call, to the next agent's view."""


@dataclass(frozen=True, slots=True)
class RunSetup(Generic[DepsT, OutputT]):
    """Configuration of a run, fixed before it starts."""

    model: Model
    toolsets: tuple[Toolset, ...]
    output: OutputSpec[OutputT]
    output_validators: tuple[OutputValidator, ...]
    request: ModelRequest | None
    """First request of the run; None if a stored run is resumed."""
    state: RunState
    deps: DepsT
    agent_name: str | None
    limits: UsageLimits
    retries: int
    tool_timeout_s: float | None
    on_tool_error: OnToolError
    settings: ModelSettings
    parallel_tool_calls: bool
    sinks: tuple[Sink, ...]
    instructions: Instructions | None = None
    planner: Planner | None = None
    compaction: Compaction | None = None
    history_processors: tuple[HistoryProcessor, ...] = ()
    middleware: tuple[Middleware, ...] = ()
    """Middleware, the first is outermost."""
    prepare_tools: PrepareTools | None = None
    """Chooses the tools of each step; None offers all."""
    prices: Prices = field(default_factory=dict[str, ModelPrice])
    """Prices that take precedence over the list, by the name of the model."""
    guardrails: tuple[Guardrail | GuardrailSource, ...] = ()
    taint_rule: bool = False
    """True if a default `TaintRule` applies, unless `guardrails` contain one."""
    checkpointer: Checkpointer | None = None
    """Checkpointer in which the journal of a new run is created."""
    metadata: Mapping[str, str] | None = None
    session: Session | None = None
    """Session that stores the messages of the run when it ends."""
    session_version: str | None = None
    journal: RunJournal | None = None
    """Journal of the run that is resumed, or of an inner run."""
    outbox: Outbox | None = None
    """Events of the run that its journal stores; it is one of `sinks`, or hears nothing."""
    budget: Budget | None = None
    """Budget of an inner run, which also counts in the outer budgets; None: the run creates its own."""
    handoffs: Mapping[str, str] = field(default_factory=dict[str, str])
    """See `LoopRules`."""
    file_limits: FileLimits = FileLimits()
    code_mode: CodeMode | None = None
    """Options of code mode; None if the model calls its tools directly."""
    team: Team | None = None
    """All agents that the run can reach by hand-offs."""

    def handed_to(self, other: RunSetup[Any, Any]) -> RunSetup[Any, Any]:
        """Return the setup of an agent that takes over this run; fields that belong to the run stay."""
        return replace(
            other,
            request=self.request,
            state=self.state,
            deps=self.deps,
            limits=self.limits,
            sinks=self.sinks,
            prices={**self.prices, **other.prices},
            guardrails=tuple(dict.fromkeys((*self.guardrails, *other.guardrails))),
            taint_rule=self.taint_rule or other.taint_rule,
            checkpointer=self.checkpointer,
            metadata=self.metadata,
            session=self.session,
            session_version=self.session_version,
            journal=self.journal,
            outbox=self.outbox,
            budget=self.budget,
            team=self.team,
        )


@dataclass(frozen=True, slots=True)
class Member:
    """An agent that a run can reach by hand-offs."""

    setup: RunSetup[Any, Any]
    """Setup of the agent; fields that belong to the run are ignored."""
    histories: Mapping[str, HistoryFilter]
    """History filters of the agents that it can hand over to, by name."""


@dataclass(frozen=True, slots=True)
class Team:
    """All agents that a run can reach, by name, and the agent that it begins with."""

    root: Member
    others: Mapping[str, Member]


Enter = Callable[[RunSetup[Any, Any]], Awaitable[None]]
"""Enters a setup's model and toolsets, which are left when the run ends."""


class ResumeOptions(TypedDict, Generic[DepsT], total=False):
    """Options of a resumed run."""

    deps: DepsT
    """The application's own objects, which tools receive through `RunContext.deps`; never stored."""
    limits: UsageLimits | None
    """Usage limits in place of the agent's."""
    settings: ModelSettings | None
    """Sampling and deadlines that replace the agent's defaults, field by field."""
    session: Session | None
    """Supplies the earlier conversation, and stores the run's messages when the run ends."""


class RunOptions(ResumeOptions[DepsT], total=False):
    """Options of a new run."""

    message_history: Sequence[ModelMessage]
    """Earlier conversation, for example `result.messages`."""
    tainted: bool
    """True if the prompt or the earlier conversation has untrusted content, such as a resource of an MCP server.
    Results of untrusted tools are found without it."""
    metadata: Mapping[str, str] | None
    """Stored with the run in the journal, for searches."""
    user: str | None
    """Who the run is for: the scope of what toolsets remember, `RunContext.user`. A resumed run keeps it."""


def check_options(given: Mapping[str, Any], known: Collection[str]) -> None:
    """Check the names and types of options.

    Raises:
        UserError: an option is unknown, and the message names the nearest known one; or it has the wrong type.
    """
    for name in given:
        if name not in known:
            near = near_names(name, known)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}."
            raise UserError(f"a run has no option {name!r}; {hint}")
    check_arguments(given, never_none=())
