"""Hand-offs: an agent hands the conversation over to another agent, which continues the same run.

To the model a hand-off is a tool, `transfer_to_NAME(task)`. After it has run, the other agent's model, tools and
instructions replace those of the first agent. Budget, deps, journal, trace and taint belong to the run and stay.
The first agent's guardrails stay too, and the other agent's are added. As in openai-agents, input guardrails check
the prompt only at the beginning of the run.

The other agent sees a view of the conversation: a history filter applied to the previous agent's view. The run's
messages stay complete. A filter must be a pure function, because a resumed run applies it again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agentkit.context import RunContext
from agentkit.errors import CheckpointError, UserError
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    UserPromptPart,
)
from agentkit.state import HandedOver, RunState
from agentkit.tools.definition import ApprovalRule, Tool, ToolDefinition, ToolOutput

if TYPE_CHECKING:
    from agentkit.agent import Agent
    from agentkit.run_plan import RunPlan

HistoryFilter = Callable[[Sequence[ModelMessage]], Sequence[ModelMessage]]
"""Maps the previous agent's view, without the hand-off call, to the next agent's view."""
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]")


def whole(messages: Sequence[ModelMessage]) -> Sequence[ModelMessage]:
    """Keep everything."""
    return messages


def said(messages: Sequence[ModelMessage]) -> Sequence[ModelMessage]:
    """Keep the messages of the user and the answers of the agents; omit calls and results."""
    kept: list[ModelMessage] = []
    for message in messages:
        if isinstance(message, ModelResponse):
            texts = tuple(part for part in message.parts if isinstance(part, TextPart))
            if texts and not message.tool_calls:
                kept.append(replace(message, parts=texts))
        elif prompts := tuple(part for part in message.parts if isinstance(part, UserPromptPart)):
            kept.append(ModelRequest(prompts))
    return kept


def nothing(messages: Sequence[ModelMessage]) -> Sequence[ModelMessage]:
    """Keep nothing; the next agent sees only the task."""
    return ()


@dataclass(frozen=True, slots=True)
class Handoff:
    """An agent to hand over to, with options."""

    agent: Agent[Any, Any]
    description: str | None = None
    """Description for the model of when to hand over; None mentions only the agent's name."""
    history: HistoryFilter = whole
    requires_approval: ApprovalRule = False
    """Approval rule for the hand-off; see `Tool.requires_approval`."""

    @property
    def name(self) -> str:
        """The agent's name.

        Raises:
            UserError: the agent has no name.
        """
        if self.agent.name is None:
            raise UserError("an agent needs a name to be handed over to: Agent(name=...).")
        return self.agent.name

    @property
    def tool_name(self) -> str:
        """Name of the hand-off tool."""
        return f"transfer_to_{_NO_NAME.sub('_', self.name)}"

    def tool(self) -> Tool:
        """Return the hand-off tool."""
        from agentkit.tools.json_schema import compile_schema

        name = self.name

        async def transfer(arguments: dict[str, Any], context: RunContext[Any]) -> ToolOutput:
            return ToolOutput(f"{name} goes on with it.", arguments["task"])

        schema = {
            "type": "object",
            "properties": {"task": {"type": "string", "description": f"What {name} shall do, in full."}},
            "required": ["task"],
            "additionalProperties": False,
        }
        about = self.description or f"Hand the conversation over to {name}."
        return Tool(
            definition=ToolDefinition(self.tool_name, about, schema),
            call=transfer,
            validate=compile_schema(schema, name=f"tool {self.tool_name!r}").arguments,
            sequential=True,
            requires_approval=self.requires_approval,
            is_repeatable=True,
        )


@dataclass(frozen=True, slots=True)
class Member:
    """An agent that a run can reach."""

    plan: RunPlan[Any, Any]
    """Plan of the agent; fields that belong to the run are ignored."""
    histories: Mapping[str, HistoryFilter]
    """History filters of the agents that it can hand over to, by name."""


@dataclass(frozen=True, slots=True)
class Team:
    """All agents that a run can reach, by name, and the agent that it begins with."""

    root: Member
    others: Mapping[str, Member]

    def member(self, state: RunState) -> Member:
        """Return the agent that currently has the run.

        Raises:
            CheckpointError: the agent that a stored run was handed over to no longer exists.
        """
        return self._named(state.handed[-1].to) if state.handed else self.root

    def opening(self, state: RunState) -> tuple[ModelMessage, ...]:
        """Return the current agent's view of the conversation before its hand-off, without instructions.

        Raises:
            CheckpointError: see `member`.
        """
        from agentkit.repair import repaired

        shown, begun, member = tuple[ModelMessage, ...](), 0, self.root
        for handed in state.handed:
            until = _handing_over(state.messages, begun, handed.at)
            earlier = (*shown, *state.messages[begun:until])
            if handed.to not in member.histories:
                raise self._gone(handed.to)
            kept = repaired(_without_instructions(member.histories[handed.to](earlier)))
            member, begun = self._named(handed.to), handed.at
            shown = _opened(kept, handed)
        return shown

    def _named(self, name: str) -> Member:
        if name not in self.others:
            raise self._gone(name)
        return self.others[name]

    def _gone(self, name: str) -> CheckpointError:
        known = ", ".join(self.others) or "nobody"
        return CheckpointError(
            f"the run was handed over to {name!r}, to whom this agent cannot; it can to {known}."
        )


def as_handoffs(given: Sequence[Agent[Any, Any] | Handoff]) -> tuple[Handoff, ...]:
    """Convert agents and hand-offs to `Handoff` objects.

    Raises:
        UserError: an agent has no name, or two tools would share a name.
    """
    handoffs = tuple(each if isinstance(each, Handoff) else Handoff(each) for each in given)
    tools = [each.tool_name for each in handoffs]
    twice = next((name for name in tools if tools.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two agents to hand over to would both be called by {twice!r}; give them other names.")
    return handoffs


def _handing_over(messages: Sequence[ModelMessage], begun: int, at: int) -> int:
    """Return the index of the response that handed over; a stored state is untrusted.

    Raises:
        CheckpointError: there is no such response.
    """
    for until in range(at - 1, begun - 1, -1) if at <= len(messages) else ():
        if isinstance(messages[until], ModelResponse):
            return until
    raise CheckpointError(f"the stored run says that it was handed over at message {at}, where no response is.")


def _without_instructions(messages: Sequence[ModelMessage]) -> list[ModelMessage]:
    """Return the messages without the instructions that earlier versions stored."""
    kept: list[ModelMessage] = []
    for message in messages:
        if isinstance(message, ModelRequest):
            parts = tuple(part for part in message.parts if not isinstance(part, SystemPromptPart))
            message = message if len(parts) == len(message.parts) else ModelRequest(parts)
        if message.parts:
            kept.append(message)
    return kept


def _opened(kept: Sequence[ModelMessage], handed: HandedOver) -> tuple[ModelMessage, ...]:
    """Return the kept conversation with the task at its end."""
    task = UserPromptPart(handed.task)
    if kept and isinstance(last := kept[-1], ModelRequest):
        return (*kept[:-1], ModelRequest((*last.parts, task)))
    return (*kept, ModelRequest((task,)))
