"""Data types of every evaluation: a case, the run of a model on it, and the score of that run.

Scorers are plain functions `(case, run) -> Score` without any evaluation framework, because training uses the same
functions as rewards. All types survive JSON unchanged, so a run can be scored again without running the model
again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator

from agentkit.messages import ModelMessage, ModelResponse, ToolCallPart
from agentkit.usage import RunUsage

if TYPE_CHECKING:
    from pydantic import TypeAdapter

RunStatus = Literal[
    "completed",
    "truncated",
    "filtered",
    "malformed_call",
    "limit_reached",
    "abstained",
    "refused",
    "needs_approval",
    "needs_results",
    "failed",
    "timed_out",
]
"""How a run ended: a status of `agentkit.results.RunResultStatus`, or the reason why there is no result."""


@dataclass(frozen=True, slots=True)
class Case:
    """A question of a suite."""

    id: str
    """Unique within its suite and the same on every machine; a resume and a comparison match runs by it."""
    prompt: str
    """The user's message, for display; the solver may send more messages (see `data`)."""
    group: str = ""
    """The category under which the score is also reported."""
    target: Any = None
    """Expected result that the scorer compares with; must be JSON-able."""
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further input of solver and scorer: tools, earlier turns, files; must be JSON-able."""


@dataclass(frozen=True, slots=True)
class Run:
    """The recorded behaviour of a model or an agent on a case."""

    case_id: str
    status: RunStatus
    """Status as in `agentkit.RunResult`; "failed" after an error, "timed_out" if the case exceeded its time
    limit."""
    messages: tuple[Annotated[ModelMessage, Discriminator("kind")], ...] = ()
    output: Any = None
    """The final answer: text, or the value of a structured answer."""
    observed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """State that the solver read after the run: files, rows, log-probabilities; must be JSON-able."""
    error: str | None = None
    usage: RunUsage = RunUsage()
    wall_s: float = 0.0
    cpu_s: float = 0.0
    """CPU seconds of the whole process during the run; not meaningful if cases run in parallel."""
    epoch: int = 1

    @property
    def responses(self) -> tuple[ModelResponse, ...]:
        """The model's responses, in order."""
        return tuple(message for message in self.messages if isinstance(message, ModelResponse))

    @property
    def calls(self) -> tuple[ToolCallPart, ...]:
        """All tool calls, in order."""
        return tuple(call for response in self.responses for call in response.tool_calls)


@dataclass(frozen=True, slots=True)
class Score:
    """A judgement of one run. An error or a time-out is a failure, never a missing value."""

    value: float
    """0 to 1; 1 is correct."""
    explanation: str = ""
    """Reason for the score; names the expected and the actual result."""
    answer: str | None = None
    """The answer extracted from the run for the comparison; the raw answer stays in the run."""
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])
    """Further measurements of this case; each is averaged and reported beside the score."""


def run_to_json(run: Run) -> str:
    """Return a run as one line of JSON.

    Raises:
        pydantic_core.PydanticSerializationError: `output` or `observed` holds something that cannot be written as
            JSON.
    """
    return _run_adapter().dump_json(run).decode()


def run_from_json(line: str | bytes) -> Run:
    """Parse a run from one line of JSON.

    Raises:
        pydantic.ValidationError: the line is not a run.
    """
    return _run_adapter().validate_json(line)


def failed_score(run: Run) -> Score | None:
    """Return a score of 0 if the run ended in an error or a time-out, else None.

    Most scorers call this function first.
    """
    if run.status in ("failed", "timed_out"):
        return Score(0.0, f"{run.status}: {run.error}")
    return None


def last_text(messages: Sequence[ModelMessage]) -> str:
    """Return the text of the last response, or an empty string if there is no response."""
    for message in reversed(messages):
        if isinstance(message, ModelResponse):
            return message.text
    return ""


def json_line(value: Any) -> str:
    """Return compact JSON with sorted keys, for hashing and comparison."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@cache
def _run_adapter() -> TypeAdapter[Run]:
    from pydantic import TypeAdapter

    return TypeAdapter(Run)
