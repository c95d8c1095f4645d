"""Hand-offs: an agent gives the conversation to another one, which goes on with the same run and answers the user.

To the model a hand-off is a tool, `transfer_to_NAME(task)`. Once it has run, the other agent's model, tools and
instructions take the place of the first one's; budget, deps, journal, trace and what is tainted stay those of the
run, and so do the first agent's guardrails, to which the other's are added. As in openai-agents, input guardrails
are asked at the beginning of the run alone.

What the other agent sees of the conversation is a view, made by a history filter from what the agent before saw;
the run's messages stay whole. A filter must be a pure function: a run that is resumed applies it again.
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
"""From the conversation as the agent before saw it, without the call that hands over, to what the next sees."""
Instructions = str | Callable[[RunContext[Any]], str] | None
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]")


def whole(messages: Sequence[ModelMessage]) -> Sequence[ModelMessage]:
    """Show everything."""
    return messages


def said(messages: Sequence[ModelMessage]) -> Sequence[ModelMessage]:
    """Show what the user and the agents said to each other; no calls, no results."""
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
    """Show the task alone."""
    return ()


@dataclass(frozen=True, slots=True)
class Handoff:
    """An agent to hand over to, and how."""

    agent: Agent[Any, Any]
    description: str | None = None
    """When to hand over to it, for the model; None says only its name."""
    history: HistoryFilter = whole
    requires_approval: ApprovalRule = False
    """Whether somebody has to allow it; see `Tool.requires_approval`."""

    @property
    def name(self) -> str:
        """The agent's name.

        Raises:
            UserError: it has none.
        """
        if self.agent.name is None:
            raise UserError("an agent needs a name to be handed over to: Agent(name=...).")
        return self.agent.name

    @property
    def tool_name(self) -> str:
        """The tool that hands over to it."""
        return f"transfer_to_{_NO_NAME.sub('_', self.name)}"

    def tool(self) -> Tool:
        """Return that tool."""
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
    """An agent that a run can get to."""

    plan: RunPlan[Any, Any]
    """As if the run were its own; what belongs to the run is not looked at."""
    instructions: Instructions
    histories: Mapping[str, HistoryFilter]
    """Of those it can hand over to, by their names."""


@dataclass(frozen=True, slots=True)
class Team:
    """All agents that a run can get to, by name, and the one that it begins with."""

    root: Member
    others: Mapping[str, Member]

    def member(self, state: RunState) -> Member:
        """Return who has the run.

        Raises:
            CheckpointError: an agent that a stored run was handed over to is not there any more.
        """
        return self._named(state.handed[-1].to) if state.handed else self.root

    def opening(self, state: RunState, context: RunContext[Any]) -> tuple[ModelMessage, ...]:
        """Return what whoever has the run is shown of the time before.

        Raises:
            CheckpointError: as `member`.
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
            shown = _opened(kept, member.instructions, handed, context)
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
    """Return all as `Handoff`.

    Raises:
        UserError: an agent has no name, or two tools would have one.
    """
    handoffs = tuple(each if isinstance(each, Handoff) else Handoff(each) for each in given)
    tools = [each.tool_name for each in handoffs]
    twice = next((name for name in tools if tools.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two agents to hand over to would both be called by {twice!r}; give them other names.")
    return handoffs


def _handing_over(messages: Sequence[ModelMessage], begun: int, at: int) -> int:
    """Return where the response stands that handed over; a stored state may say anything.

    Raises:
        CheckpointError: there is none.
    """
    for until in range(at - 1, begun - 1, -1) if at <= len(messages) else ():
        if isinstance(messages[until], ModelResponse):
            return until
    raise CheckpointError(f"the stored run says that it was handed over at message {at}, where no response is.")


def _without_instructions(messages: Sequence[ModelMessage]) -> list[ModelMessage]:
    """Return the messages without what the runtime told an agent before."""
    kept: list[ModelMessage] = []
    for message in messages:
        if isinstance(message, ModelRequest):
            parts = tuple(part for part in message.parts if not isinstance(part, SystemPromptPart))
            message = message if len(parts) == len(message.parts) else ModelRequest(parts)
        if message.parts:
            kept.append(message)
    return kept


def _opened(
    kept: Sequence[ModelMessage], instructions: Instructions, handed: HandedOver, context: RunContext[Any]
) -> tuple[ModelMessage, ...]:
    text = instructions(context) if callable(instructions) else instructions
    system = (SystemPromptPart(text),) if text else ()
    task = (UserPromptPart(handed.task),)
    if not kept or isinstance(kept[0], ModelResponse):
        kept = (ModelRequest(system), *kept) if system and kept else kept
    else:
        kept = (ModelRequest((*system, *kept[0].parts)), *kept[1:])
    if not kept:
        return (ModelRequest((*system, *task)),)
    last = kept[-1]
    if isinstance(last, ModelRequest):
        return (*kept[:-1], ModelRequest((*last.parts, *task)))
    return (*kept, ModelRequest(task))
