"""What is measured: a case, what was done with it, and the score of that.

Scorers are plain functions `(case, run) -> Score` over these, without any evaluation framework, because the same
functions are rewards in training. Everything here is data that goes through JSON unchanged, so a run can be
scored again without running the model again.
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
"""As of a result (`agentkit.results.RunResultStatus`), or why there is none."""


@dataclass(frozen=True, slots=True)
class Case:
    """One question of a suite."""

    id: str
    """Unique in its suite and the same on every machine: runs are resumed and paired by it."""
    prompt: str
    """What the user says, for reading; the solver may send more (see `data`)."""
    group: str = ""
    """The category under which the score is also reported."""
    target: Any = None
    """What the scorer compares with; JSON-able."""
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What else solver and scorer need: tools, earlier turns, files; JSON-able."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a model or an agent did with a case."""

    case_id: str
    status: RunStatus
    """As in `agentkit.RunResult`; "failed" after an error, "timed_out" where the case ran out of time."""
    messages: tuple[Annotated[ModelMessage, Discriminator("kind")], ...] = ()
    output: Any = None
    """The final answer: text, or the value of a structured answer."""
    observed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the solver saw of the world afterwards: files, rows, log-probabilities; JSON-able."""
    error: str | None = None
    usage: RunUsage = RunUsage()
    wall_s: float = 0.0
    cpu_s: float = 0.0
    """CPU time of the whole process meanwhile; means little where cases run side by side."""
    epoch: int = 1

    @property
    def responses(self) -> tuple[ModelResponse, ...]:
        """What the model said, in order."""
        return tuple(message for message in self.messages if isinstance(message, ModelResponse))

    @property
    def calls(self) -> tuple[ToolCallPart, ...]:
        """All tool calls, in order."""
        return tuple(call for response in self.responses for call in response.tool_calls)


@dataclass(frozen=True, slots=True)
class Score:
    """A judgement of one run. An error or a time-out is a failure, never a missing value."""

    value: float
    """0 to 1; 1 is right."""
    explanation: str = ""
    """Why, in words that name what was expected and what came."""
    answer: str | None = None
    """What was extracted from the run and compared; the raw answer stays in the run."""
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])
    """Further figures of this case, each averaged and reported beside the score."""


def run_to_json(run: Run) -> str:
    """Return a run as one line of JSON.

    Raises:
        pydantic_core.PydanticSerializationError: `output` or `observed` holds something that is not JSON-able.
    """
    return _run_adapter().dump_json(run).decode()


def run_from_json(line: str | bytes) -> Run:
    """Read a run back.

    Raises:
        pydantic.ValidationError: the line is not a run.
    """
    return _run_adapter().validate_json(line)


def failed_score(run: Run) -> Score | None:
    """Return the score of a run that ended in an error or a time-out, None where it ended by itself.

    The first line of most scorers.
    """
    if run.status in ("failed", "timed_out"):
        return Score(0.0, f"{run.status}: {run.error}")
    return None


def last_text(messages: Sequence[ModelMessage]) -> str:
    """Return the text of the last response, empty where there is none."""
    for message in reversed(messages):
        if isinstance(message, ModelResponse):
            return message.text
    return ""


def json_line(value: Any) -> str:
    """Return compact JSON with sorted keys, for hashes and for comparing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@cache
def _run_adapter() -> TypeAdapter[Run]:
    from pydantic import TypeAdapter

    return TypeAdapter(Run)
