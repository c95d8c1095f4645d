"""A rollout: what an agent did on a task, as it is kept in the journal, and its score."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel

from agentkit.approvals.pending import PendingCall
from agentkit.basics.well_formed import well_formed
from agentkit.improve.tasks import Task
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    ToolCallPart,
    ToolReturnPart,
)
from agentkit.usage import RunUsage

MAX_ANSWER_CHARS = 4_000
MAX_ARGUMENT_CHARS = 2_000
MAX_CALLS = 100
"""Maximum number of calls that a rollout keeps."""

CallOutcome = Literal["success", "retry", "failed", "none"]
"""Outcome of a call: a result; sent back because its name or arguments are wrong; an error; no result."""


class RolloutCall(BaseModel, frozen=True):
    """A call of a rollout. Its result is not kept: it is untrusted, and no piece may be made from it."""

    name: str
    arguments: str
    """JSON text as the model wrote it, cut."""
    outcome: CallOutcome


class Rollout(BaseModel, frozen=True):
    """The recorded behaviour of a candidate on a task, with its score."""

    task_id: str
    status: str
    """Status of the run as in `RunResult`; "failed" after an error, "timed_out" after the time limit."""
    answer: str = ""
    """The answer as text, cut."""
    calls: tuple[RolloutCall, ...] = ()
    n_pending: int = 0
    """Calls that waited for an approval when the run ended."""
    is_tainted: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal | None = None
    """US dollars; None: not known."""
    seconds: float = 0.0
    error: str = ""
    score: float = 0.0
    """0 to 1."""
    explanation: str = ""

    @property
    def n_tokens(self) -> int:
        """Input and output tokens."""
        return self.input_tokens + self.output_tokens

    def n_forbidden(self, task: Task) -> int:
        """Return the number of calls of tools that the task forbids, whatever came of them."""
        return sum(call.name in task.checks.forbidden_calls for call in self.calls)


class Outcome(BaseModel, frozen=True, arbitrary_types_allowed=True):
    """The end of a run, as a scorer sees it."""

    task: Task
    status: str
    output: Any = None
    """The answer: text, or the value of a structured answer."""
    messages: Sequence[ModelMessage] = ()
    usage: RunUsage = RunUsage()
    pending: tuple[PendingCall, ...] = ()
    is_tainted: bool = False
    error: str = ""
    observed: Any = None
    """State of the task's world after the run; None without a world."""
    before: Any = None
    """State of the world before the run."""

    @property
    def answer(self) -> str:
        """The answer as text; "" without one."""
        return self.output if isinstance(self.output, str) else "" if self.output is None else str(self.output)

    @property
    def calls(self) -> tuple[RolloutCall, ...]:
        """All calls in order, with their outcomes."""
        return calls_of(self.messages)


class Score(BaseModel, frozen=True):
    """A judgement of a run."""

    value: float
    """0 to 1; 1 is right."""
    explanation: str = ""
    """Reason, for people and for a reflection model."""


Scorer = Callable[[Outcome], "float | Score | Awaitable[float | Score]"]
"""Judges a run; plain or coroutine function."""


def calls_of(messages: Sequence[ModelMessage]) -> tuple[RolloutCall, ...]:
    """Return the calls of a conversation with their outcomes."""
    answers: dict[str, CallOutcome] = {}
    asked: list[ToolCallPart] = []
    for message in messages:
        if isinstance(message, ModelResponse):
            asked += message.tool_calls
            continue
        for part in message.parts:
            if isinstance(part, ToolReturnPart):
                answers[part.tool_call_id] = "failed" if part.is_error else "success"
            elif isinstance(part, RetryPromptPart) and part.tool_call_id is not None:
                answers[part.tool_call_id] = "retry"
    return tuple(
        RolloutCall(
            name=well_formed(call.tool_name[:200]),
            arguments=well_formed(call.arguments[:MAX_ARGUMENT_CHARS]),
            outcome=answers.get(call.tool_call_id, "none"),
        )
        for call in asked[:MAX_CALLS]
    )


def recorded(outcome: Outcome, score: Score, seconds: float) -> Rollout:
    """Return the record of a judged run."""
    usage = outcome.usage
    return Rollout(
        task_id=outcome.task.id,
        status=outcome.status,
        answer=well_formed(outcome.answer[:MAX_ANSWER_CHARS]),
        calls=outcome.calls,
        n_pending=sum(call.kind != "external" for call in outcome.pending),
        is_tainted=outcome.is_tainted,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost=usage.cost,
        seconds=round(seconds, 3),
        error=well_formed(outcome.error[:MAX_ANSWER_CHARS]),
        score=score.value,
        explanation=well_formed(score.explanation[:MAX_ANSWER_CHARS]),
    )


def user_prompts(messages: Sequence[ModelMessage]) -> list[str]:
    """Return the texts of the user in a conversation."""
    requests = (message for message in messages if isinstance(message, ModelRequest))
    return [part.text for message in requests for part in message.parts if part.part_kind == "user-prompt"]
