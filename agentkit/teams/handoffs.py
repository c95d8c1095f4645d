"""Hand-offs: an agent hands the conversation over to another agent, which continues the same run.

To the model a hand-off is a tool, `transfer_to_NAME(task)`. After it has run, the other agent's model, tools and
instructions replace those of the first agent. Budget, deps, journal, trace and taint belong to the run and stay.
The first agent's guardrails stay too, and the other agent's are added. As in openai-agents, input guardrails check
the prompt only at the beginning of the run.

The other agent sees a view of the conversation: a history filter applied to the previous agent's view. The run's
messages stay complete. A filter must be a pure function, because a resumed run applies it again
(`agentkit.run.hand_over`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    UserPromptPart,
)
from agentkit.run.setup import HistoryFilter
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.tool import ApprovalRule, Tool, ToolOutput


class NamedAgent(Protocol):
    """An agent, as far as a hand-off to it is described."""

    @property
    def name(self) -> str | None:
        """The agent's name."""
        ...


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

    agent: NamedAgent
    """An `Agent`."""
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


def as_handoffs(given: Sequence[NamedAgent | Handoff]) -> tuple[Handoff, ...]:
    """Convert agents and hand-offs to `Handoff` objects.

    Raises:
        UserError: an agent has no name, or two tools would share a name.
    """
    for each in given:
        if not hasattr(each, "name"):
            raise UserError(f"handoffs=[{each!r:.200}]: a run can be handed over to an Agent or a Handoff only.")
    handoffs = tuple(each if isinstance(each, Handoff) else Handoff(each) for each in given)
    tools = [each.tool_name for each in handoffs]
    twice = next((name for name in tools if tools.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two agents to hand over to would both be called by {twice!r}; give them other names.")
    return handoffs
