"""What a run gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from agentkit.approvals import PendingCall
from agentkit.limits import RunUsage
from agentkit.messages import ModelMessage
from agentkit.state import RunState, RunStatus

OutputT = TypeVar("OutputT")

RunResultStatus = RunStatus | Literal["needs_approval"]


@dataclass(frozen=True, slots=True)
class RunResult(Generic[OutputT]):
    """The outcome of a run."""

    output: OutputT
    """The answer. None where the run ended without one (`status` is then not "completed")."""
    status: RunResultStatus
    """How the run ended.

    - "completed": the answer is whole.
    - "truncated": the answer ran into the model's token limit. It is what could be read of it, or None.
    - "filtered": a filter of the model's server cut the answer off, or replaced it.
    - "limit_reached": a limit of the run cut it short; the answer is the model's last word, or None.
    - "abstained": the model said that no tool fits.
    - "refused": a guardrail blocked the prompt or the answer.
    - "needs_approval": calls wait for a decision.
    """
    state: RunState

    @property
    def run_id(self) -> str:
        """The run's id, which also names its trace."""
        return self.state.run_id

    @property
    def messages(self) -> tuple[ModelMessage, ...]:
        """The whole conversation; pass it as `message_history` to go on."""
        return self.state.messages

    def new_messages(self) -> tuple[ModelMessage, ...]:
        """Return the messages of this run alone."""
        return self.state.messages[self.state.n_history :]

    @property
    def handed_to(self) -> str | None:
        """The name of the agent that the run was handed over to last; None if it never was."""
        return self.state.handed[-1].to if self.state.handed else None

    @property
    def pending(self) -> tuple[PendingCall, ...]:
        """The calls that wait for a decision, where the status is "needs_approval"; see `Agent.resume`."""
        return self.state.pending

    @property
    def usage(self) -> RunUsage:
        """Requests, tool calls and tokens."""
        return self.state.usage

    @property
    def confidence(self) -> float | None:
        """The least probability, under the grammar's mask, of any decision in the run.

        A decision is the choice of a tool, or of answering instead. None where the model reports none.
        """
        return self.state.confidence
