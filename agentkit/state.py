"""The state of a run as a value: what has been said, what was used, what may still be called.

`agentkit.loop.step` turns one state into the next; nothing else decides. The tuple of messages only grows, and
earlier messages are shared between states, never copied. A state says by itself how its run goes on
(`agentkit.loop.next_action`), so it can be stored anywhere and taken up by another process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from agentkit.approvals import Grant, PendingCall
from agentkit.limits import RunUsage
from agentkit.messages import (
    ModelMessage,
    ModelResponse,
    RetryPromptPart,
    ToolCallPart,
    ToolReturnPart,
    new_call_id,
)
from agentkit.planning.plan import Plan
from agentkit.tagged import TaggedBy

RunStatus = Literal["completed", "truncated", "filtered", "limit_reached", "abstained", "refused"]
"""How a run ended; see `RunResult.status`."""
CallAnswer = Annotated[ToolReturnPart | RetryPromptPart, TaggedBy("part_kind")]


@dataclass(frozen=True, slots=True)
class Compacted:
    """A shorter view of a conversation; see `agentkit.compaction`."""

    n_first: int
    """So many messages at the beginning are shown as they are."""
    cut: int
    """The first message of the tail, which is shown as it is."""
    note: str
    """Stands for all between."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A run that another agent goes on with; see `agentkit.handoffs`."""

    to: str
    """The agent's name."""
    at: int
    """Messages from here on are its own; earlier ones it sees through a filter."""
    task: str
    """What it was given to do."""


@dataclass(frozen=True, slots=True)
class InnerRun:
    """A run that one of this run's calls performs; see `agentkit.agent_tool`."""

    call_id: str
    """The call that it serves."""
    state: RunState


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stands."""

    messages: tuple[Annotated[ModelMessage, TaggedBy("kind")], ...] = ()
    n_history: int = 0
    """How many of the messages came from earlier runs."""
    run_id: str = field(default_factory=lambda: new_call_id().replace("call_", "run_"))
    usage: RunUsage = RunUsage()
    step: int = 0
    """Model responses so far."""
    retries: tuple[tuple[str, int], ...] = ()
    """Tools whose last calls in a row were sent back to the model, and how often."""
    output_retries: int = 0
    disabled_tools: tuple[str, ...] = ()
    """Tools that used up their retries, in that order; masked out from then on."""
    limit: str | None = None
    """The usage limit that was reached; the next model turn is the last and may call no tool."""
    confidence: float | None = None
    """The least probability of any decision of the run; None where the model gives none."""
    tainted: bool = False
    """Results of tools that are not trusted are in the conversation."""
    ending: RunStatus | None = None
    """How the run ends if its last response holds; None while it goes on."""
    answers: tuple[CallAnswer, ...] = ()
    """To calls of the last response, as long as others of its calls are not answered."""
    pending: tuple[PendingCall, ...] = ()
    """Calls of the last response that wait for somebody's decision."""
    in_doubt: tuple[str, ...] = ()
    """Nested calls (`agentkit.nested_calls`) that were running when the process of this run died."""
    grants: tuple[Grant, ...] = ()
    """What was allowed and is not used up."""
    plan: Plan | None = None
    """The steps of a run that has a planner, once they are made."""
    compacted: Compacted | None = None
    """How the model is shown the conversation; None: whole."""
    handed: tuple[HandedOver, ...] = ()
    """From agent to agent; the last one has the run."""
    attempts: tuple[tuple[str, int], ...] = ()
    """Calls of the last response, nested ones included, and how many attempts of each are used up: cut off with
    their process, or allowed and asking again."""
    inner: tuple[InnerRun, ...] = ()
    """Runs of other agents that open calls of the last response perform."""

    @property
    def last_response(self) -> ModelResponse | None:
        """The newest response of this run."""
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
        """Return how many attempts of a call are used up."""
        return next((count for known, count in self.attempts if known == call_id), 0)

    def retries_of(self, tool_name: str) -> int:
        """How often in a row calls of this tool were sent back."""
        return next((count for name, count in self.retries if name == tool_name), 0)
