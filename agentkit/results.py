"""Result of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from agentkit.approvals.pending import PendingCall
from agentkit.messages import ModelMessage, ToolCallPart
from agentkit.run.repeated_calls import repeated_calls
from agentkit.run.state import RunState, RunStatus
from agentkit.usage import RunUsage

OutputT = TypeVar("OutputT")

RunResultStatus = RunStatus | Literal["needs_approval"]


@dataclass(frozen=True, slots=True)
class RunResult(Generic[OutputT]):
    """The outcome of a run."""

    output: OutputT
    """The answer; None if the run ended without one (`status` is then not "completed")."""
    status: RunResultStatus
    """Status at the end of the run.

    - "completed": the answer is complete.
    - "truncated": the answer reached the model's token limit. `output` is the part that could be parsed, or None.
    - "filtered": a filter of the model's server cut off or replaced the answer.
    - "malformed_call": the answer is a tool call, written as text, that cannot be parsed. `output` is that text.
    - "limit_reached": a usage limit cut the run short. `output` is the model's last answer, or None.
    - "abstained": the model stated that no tool fits.
    - "refused": a guardrail blocked the prompt, an interruption or the answer. The messages do not contain it.
    - "needs_approval": calls wait for a decision.
    """
    state: RunState

    @property
    def run_id(self) -> str:
        """The run's id, which also names its trace."""
        return self.state.run_id

    @property
    def messages(self) -> tuple[ModelMessage, ...]:
        """The whole conversation, without instructions; pass it as `message_history` to continue."""
        return self.state.messages

    def new_messages(self) -> tuple[ModelMessage, ...]:
        """Return the messages of this run alone."""
        return self.state.messages[self.state.n_history :]

    @property
    def handed_to(self) -> str | None:
        """Name of the agent that the run was last handed over to; None without a hand-off."""
        return self.state.handed[-1].to if self.state.handed else None

    @property
    def pending(self) -> tuple[PendingCall, ...]:
        """Calls that wait for a decision if the status is "needs_approval"; see `Agent.resume`."""
        return self.state.pending

    @property
    def usage(self) -> RunUsage:
        """Requests, tool calls and tokens."""
        return self.state.usage

    @property
    def repeated_calls(self) -> tuple[ToolCallPart, ...]:
        """Calls of this run that were not run because equal calls had returned the same result twice.

        If the model repeated such a call once more, its tool is in `state.disabled_tools`; see
        `agentkit.run.repeated_calls`.
        """
        return repeated_calls(self.new_messages())

    @property
    def confidence(self) -> float | None:
        """Lowest probability of any decision in the run, under the grammar's mask.

        A decision is the choice of a tool, or of answering instead. None if the model reports no probabilities.
        """
        return self.state.confidence
