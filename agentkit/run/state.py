"""State of a run as a value: the conversation, the usage, and the tools that are still callable.

`agentkit.run.decide.step` computes the next state and makes all decisions. The tuple of messages only grows,
except when a guardrail withholds or rewrites text; earlier messages are shared between states, never copied. The
next action follows from the state alone (`agentkit.run.decide.next_action`), so a state can be stored anywhere and
resumed by another process.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from agentkit.approvals.pending import Grant, PendingCall
from agentkit.basics.tagged import TaggedBy
from agentkit.messages import (
    ModelMessage,
    ModelResponse,
    RetryPromptPart,
    ToolCallPart,
    ToolReturnPart,
    new_call_id,
)
from agentkit.planning.plan import Plan
from agentkit.usage import RunUsage

RunStatus = Literal[
    "completed", "truncated", "filtered", "malformed_call", "limit_reached", "abstained", "refused"
]
"""Status of an ended run; see `RunResult.status`."""
CallAnswer = Annotated[ToolReturnPart | RetryPromptPart, TaggedBy("part_kind")]


@dataclass(frozen=True, slots=True)
class Compacted:
    """A shorter view of a conversation; see `agentkit.history.compaction`."""

    n_first: int
    """Number of messages at the beginning that stay unchanged."""
    cut: int
    """Index of the first message of the tail, which stays unchanged."""
    note: str
    """Text that replaces the messages in between."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A hand-off of the run to another agent; see `agentkit.teams.handoffs`."""

    to: str
    """Name of the next agent."""
    at: int
    """Index of the agent's first own message; it sees earlier messages through a filter."""
    task: str
    """Task for the next agent."""


@dataclass(frozen=True, slots=True)
class InnerRun:
    """A run that one of this run's calls performs; see `agentkit.teams.agent_tool`."""

    call_id: str
    """Id of the call that the run serves."""
    state: RunState


@dataclass(frozen=True, slots=True)
class RunState:
    """Complete state of a run."""

    messages: tuple[Annotated[ModelMessage, TaggedBy("kind")], ...] = ()
    n_history: int = 0
    """Number of messages from earlier runs."""
    run_id: str = field(default_factory=lambda: new_call_id().replace("call_", "run_"))
    usage: RunUsage = RunUsage()
    step: int = 0
    """Number of model responses so far."""
    retries: tuple[tuple[str, int], ...] = ()
    """Number of consecutive calls that were sent back to the model, by tool."""
    output_retries: int = 0
    disabled_tools: tuple[str, ...] = ()
    """Tools that used up their retries or were withdrawn, in that order; masked out from then on."""
    withheld: tuple[str, ...] = ()
    """Tools that the agent's `prepare_tools` left out of the last request, in the order of the definitions."""
    limit: str | None = None
    """Usage limit that was reached; the next model turn is the last and may call no tool."""
    confidence: float | None = None
    """Lowest probability of any decision of the run; None if the model reports none."""
    tainted: bool = False
    """True if the conversation contains results of untrusted tools."""
    user: str | None = None
    """Who the run is for; see `RunContext.user`."""
    ending: RunStatus | None = None
    """Status of the run if its last response passes validation; None while the run continues."""
    answers: tuple[CallAnswer, ...] = ()
    """Answers to calls of the last response while other calls of it are not answered."""
    pending: tuple[PendingCall, ...] = ()
    """Calls of the last response that wait for a decision."""
    in_doubt: tuple[str, ...] = ()
    """Nested calls (`agentkit.run.nested_calls`) that were running when the process of this run died."""
    grants: tuple[Grant, ...] = ()
    """Permissions that are not used up."""
    plan: Plan | None = None
    """Plan of a run with a planner; None before it is made."""
    compacted: Compacted | None = None
    """View of the conversation for the model; None: the whole conversation."""
    handed: tuple[HandedOver, ...] = ()
    """Hand-offs so far; the agent of the last one has the run."""
    attempts: tuple[tuple[str, int], ...] = ()
    """Number of used attempts, by call of the last response, including nested calls. An attempt is used up if its
    process died, or if the call was allowed and asked again."""
    inner: tuple[InnerRun, ...] = ()
    """Runs of other agents, performed by open calls of the last response."""

    def changed(self, **changes: Any) -> RunState:
        """Return a copy with other values of some fields.

        Equal to `dataclasses.replace`, in half the time: each step of a run makes four copies.
        """
        assert changes.keys() <= _FIELDS.keys(), sorted(changes.keys() - _FIELDS.keys())
        made = object.__new__(RunState)
        for name, slot in _FIELDS.items():
            slot.__set__(made, changes[name] if name in changes else slot.__get__(self))
        return made

    @property
    def last_response(self) -> ModelResponse | None:
        """Latest response of this run; None if there is none."""
        for message in reversed(self.messages[self.n_history :]):
            if isinstance(message, ModelResponse):
                return message
        return None

    @property
    def open_calls(self) -> tuple[ToolCallPart, ...]:
        """Calls of the last message that have no answer yet; empty unless it is a response."""
        last = self.messages[-1] if self.messages else None
        if not isinstance(last, ModelResponse):
            return ()
        answered = {part.tool_call_id for part in self.answers}
        return tuple(call for call in last.tool_calls if call.tool_call_id not in answered)

    def attempts_of(self, call_id: str) -> int:
        """Return the number of used attempts of a call."""
        return next((count for known, count in self.attempts if known == call_id), 0)

    def retries_of(self, tool_name: str) -> int:
        """Return the number of consecutive calls of a tool that were sent back to the model."""
        return next((count for name, count in self.retries if name == tool_name), 0)


_FIELDS: dict[str, Any] = {each.name: RunState.__dict__[each.name] for each in fields(RunState)}
"""Slot descriptors by field name."""
