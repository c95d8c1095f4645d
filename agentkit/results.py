"""Result of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, cast

from agentkit.approvals.pending import PendingCall
from agentkit.errors import NoOutputError, attach_run
from agentkit.messages import ModelMessage, ModelResponse, ToolCallPart
from agentkit.run.repeated_calls import repeated_calls
from agentkit.run.state import RunState, RunStatus
from agentkit.usage import RunUsage

OutputT = TypeVar("OutputT")

RunResultStatus = RunStatus | Literal["needs_approval", "needs_results"]


_LOOK = "look at `status` before `output`, or read `output_or_none`."
_ADVICE: Mapping[str, str] = {
    "needs_approval": "decide about `result.pending` and call `agent.resume(result.state, decisions)`.",
    "needs_results": "run the calls in `result.pending` and resume with `[pending.settle(...)]`.",
    "refused": "a guardrail blocked the prompt, an interruption or the answer.",
    "abstained": "the model stated that no tool fits.",
    "limit_reached": "raise the limit in `UsageLimits`, or continue with `message_history=result.messages`.",
    "truncated": "raise `ModelSettings.max_tokens`, or ask for less.",
    "filtered": "a filter of the model's server withheld the answer.",
}
"""Sentence for the error of a missing output, by status."""


@dataclass(frozen=True, slots=True)
class RunResult(Generic[OutputT]):
    """The outcome of a run."""

    output_or_none: OutputT | None
    """The answer; None if the run ended without one, or if the answer is None."""
    status: RunResultStatus
    """Status at the end of the run.

    - "completed": the answer is complete.
    - "truncated": the answer reached the model's token limit. `output` is the part that could be parsed, if any.
    - "filtered": a filter of the model's server cut off or replaced the answer.
    - "malformed_call": the answer is a tool call, written as text, that cannot be parsed. `output` is that text.
    - "limit_reached": a usage limit cut the run short. `output` is the model's last answer, if any.
    - "abstained": the model stated that no tool fits.
    - "refused": a guardrail blocked the prompt, an interruption or the answer. The messages do not contain it.
    - "needs_approval": calls wait for a decision; others may wait for a result.
    - "needs_results": calls of external tools wait for results, and nothing else waits.
    """
    state: RunState

    @property
    def has_output(self) -> bool:
        """True if the run ended with an answer of the output type."""
        return self.output_or_none is not None or self.status == "completed"

    @property
    def output(self) -> OutputT:
        """The answer.

        Raises:
            NoOutputError: the run ended without one; see `status` and `output_or_none`.
        """
        if self.has_output:
            return cast(OutputT, self.output_or_none)
        error = NoOutputError(
            f"run {self.run_id} has no output, its status is {self.status!r}: {_ADVICE.get(self.status, _LOOK)}"
        )
        attach_run(error, self.state)
        raise error

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
    def tool_calls(self) -> tuple[ToolCallPart, ...]:
        """Tool calls that the model asked for in this run, in order, denied and invalid ones included."""
        responses = (message for message in self.new_messages() if isinstance(message, ModelResponse))
        return tuple(call for response in responses for call in response.tool_calls)

    @property
    def handed_to(self) -> str | None:
        """Name of the agent that the run was last handed over to; None without a hand-off."""
        return self.state.handed[-1].to if self.state.handed else None

    @property
    def pending(self) -> tuple[PendingCall, ...]:
        """Calls that wait for a decision or a result ("needs_approval", "needs_results"); see `Agent.resume`."""
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
        """Lowest probability of any choice between tools in the run, under the grammar's mask.

        Answering instead of calling a tool is one of the choices. The text of an answer has no part in it. None if
        the model reports no probabilities.
        """
        return self.state.confidence
