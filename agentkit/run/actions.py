"""Actions and observations of a run, as data.

`agentkit.run.decide` maps an observation to the next action; `agentkit.run.perform` performs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from agentkit.messages import ModelRequest, ModelRequestPart, ModelResponse, ToolCallPart
from agentkit.planning.plan import PlanStep
from agentkit.run.state import Compacted, RunStatus


@dataclass(frozen=True, slots=True)
class CallModel:
    """Ask the model; `final` allows no tool calls."""

    final: bool = False


@dataclass(frozen=True, slots=True)
class RunTools:
    """Run these calls; a `sequential` tool is a barrier. `refused` calls already have their answers."""

    calls: tuple[ToolCallPart, ...]
    refused: tuple[ModelRequestPart, ...] = ()
    copied: Mapping[str, str] = field(default_factory=dict[str, str])
    """Ids of calls that equal another call of the response, each with the id of the call whose answer it gets."""
    withdrawn: tuple[str, ...] = ()
    """Tools that are no longer callable because the model keeps repeating one of their calls."""


@dataclass(frozen=True, slots=True)
class ReadOutput:
    """Parse and validate the answer in the last response; `status` is the status of the run if that succeeds."""

    response: ModelResponse
    status: RunStatus


@dataclass(frozen=True, slots=True)
class Finish:
    """End the run without an answer to parse."""

    status: RunStatus


@dataclass(frozen=True, slots=True)
class MakePlan:
    """Ask the planner, for the first time or again."""

    reason: str | None = None
    """Reason for the revision; None for the first plan."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """Hand the run over to the agent that the state names."""

    to: str


Action = CallModel | RunTools | ReadOutput | Finish | MakePlan | HandOver


@dataclass(frozen=True, slots=True)
class CountedResponse:
    """A response whose usage the state has already: middleware made several requests for it, or none."""

    response: ModelResponse


@dataclass(frozen=True, slots=True)
class ToolOutcomes:
    """Results of the calls of a `RunTools`, in the order of the calls; includes the `refused` parts."""

    parts: tuple[ModelRequestPart, ...]
    n_run: int
    """Number of admitted calls. Denied calls count too, so that the limit still binds."""
    copied: Mapping[str, str] = field(default_factory=dict[str, str])
    withdrawn: tuple[str, ...] = ()
    """Fields of `RunTools`, passed through."""


@dataclass(frozen=True, slots=True)
class OutputRejected:
    """The answer failed validation."""

    reason: str
    status: RunStatus | None = None
    """Status of the run with this answer if no retry is left; None: the run fails with an error."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A guardrail blocked a message of the user or an answer of the model."""

    what: Literal["prompt", "interruption", "partial answer", "answer"]
    """Kind of the blocked text. A partial answer was blocked while streaming; the conversation lacks it."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Result of the planner."""

    task: str
    steps: tuple[PlanStep, ...] | None
    """New steps; None: no alternative exists, and the current step is skipped."""


@dataclass(frozen=True, slots=True)
class Shortened:
    """A shorter view of the conversation for the model."""

    compacted: Compacted


@dataclass(frozen=True, slots=True)
class OutOfBudget:
    """The budget of an outer run has no room for the next request."""

    limit: str


@dataclass(frozen=True, slots=True)
class PlanUpset:
    """An unforeseen event that requires a revision of the plan; `said` is the user's message, if any."""

    reason: str
    said: str | None = None


Observation = (
    ModelRequest
    | ModelResponse
    | CountedResponse
    | ToolOutcomes
    | OutputRejected
    | Refused
    | Planned
    | PlanUpset
    | Shortened
    | OutOfBudget
)
