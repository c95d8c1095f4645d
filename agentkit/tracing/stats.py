"""Statistics of traced runs: statuses, tokens, times of models and tools, verdicts of guardrails."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from agentkit.events import (
    AgentEvent,
    GuardrailEvent,
    ModelResponseEvent,
    RunFailedEvent,
    RunFinishedEvent,
    RunResumedEvent,
    RunStartedEvent,
    SideRequestEvent,
    ToolResultEvent,
)
from agentkit.messages import ModelResponse
from agentkit.tracing.reading import model_of, status_of_failure
from agentkit.usage import EXACT, NO_COST


@dataclass(slots=True)
class ModelStats:
    """The runs of one model."""

    statuses: Counter[str] = field(default_factory=Counter[str])
    """Runs by status, see `RunSummary`."""
    step_seconds: list[float] = field(default_factory=list[float])
    """Seconds of each model request, those for plans and summaries too."""
    input_tokens: int = 0
    cached_tokens: int = 0
    """Input tokens that were not evaluated again."""
    output_tokens: int = 0
    cost: Decimal | None = NO_COST
    """US dollars of all requests; None if the cost of one is not known."""
    tool_choices: list[float] = field(default_factory=list[float])
    """Lowest probability of a tool choice, of each run with calls whose model reports probabilities."""

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        return self.statuses.total()

    def count(self, response: ModelResponse, duration_s: float) -> None:
        """Count one request."""
        self.step_seconds.append(duration_s)
        self.input_tokens += response.usage.input_tokens
        self.cached_tokens += response.usage.cache_read_tokens
        self.output_tokens += response.usage.output_tokens
        cost = response.usage.cost
        self.cost = None if self.cost is None or cost is None else EXACT.add(self.cost, cost)


@dataclass(slots=True)
class ToolStats:
    """The calls of one tool."""

    outcomes: Counter[str] = field(default_factory=Counter[str])
    """Calls by outcome, see `ToolResultEvent`."""
    seconds: list[float] = field(default_factory=list[float])

    @property
    def n_calls(self) -> int:
        """Number of calls."""
        return self.outcomes.total()


@dataclass(slots=True)
class TraceStats:
    """Statistics of several runs."""

    models: dict[str, ModelStats] = field(default_factory=dict[str, ModelStats])
    tools: dict[str, ToolStats] = field(default_factory=dict[str, ToolStats])
    verdicts: Counter[tuple[str, str, str]] = field(default_factory=Counter[tuple[str, str, str]])
    """Number of times by stage, guardrail and verdict, without those that allowed."""

    def add(self, events: Iterable[AgentEvent]) -> None:
        """Count one run; a resumed one counts once, with the usage of all its parts and its last status."""
        model, status, confidence, has_calls = ModelStats(), "unfinished", None, False
        for event in events:
            match event:
                case RunStartedEvent():
                    model = self.models.setdefault(model_of(event), model)
                case RunResumedEvent():
                    model, status = self.models.setdefault(model_of(event), model), "unfinished"
                case ModelResponseEvent(response=response, duration_s=duration_s):
                    model.count(response, duration_s)
                    has_calls = has_calls or bool(response.tool_calls)
                case SideRequestEvent(response=response, duration_s=duration_s):
                    self.models.setdefault(model_of(event), ModelStats()).count(response, duration_s)
                case ToolResultEvent(tool_name=name, outcome=outcome, duration_s=duration_s):
                    tool = self.tools.setdefault(name, ToolStats())
                    tool.outcomes[outcome] += 1
                    tool.seconds.append(duration_s)
                case GuardrailEvent(stage=stage, name=name, verdict=verdict) if verdict != "allow":
                    self.verdicts[stage, name, verdict] += 1
                case RunFinishedEvent():
                    status, confidence = event.status, event.confidence
                case RunFailedEvent():
                    status = status_of_failure(event)
                case _:
                    pass
        model.statuses[status] += 1
        if confidence is not None and has_calls:
            model.tool_choices.append(confidence)


def quantile(values: Iterable[float], share: float) -> float:
    """Return the least value that `share` of the values do not exceed; NaN if there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
