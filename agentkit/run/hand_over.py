"""The agent that has a run after hand-offs, and its view of the conversation."""

from __future__ import annotations

from collections.abc import Sequence

from agentkit.errors import CheckpointError
from agentkit.history.repair import repaired
from agentkit.messages import ModelMessage, ModelRequest, ModelResponse, SystemPromptPart, UserPromptPart
from agentkit.run.setup import Member, Team
from agentkit.run.state import HandedOver, RunState


def current_member(team: Team, state: RunState) -> Member:
    """Return the agent that currently has the run.

    Raises:
        CheckpointError: the agent that a stored run was handed over to no longer exists.
    """
    return _named(team, state.handed[-1].to) if state.handed else team.root


def opening(team: Team, state: RunState) -> tuple[ModelMessage, ...]:
    """Return the current agent's view of the conversation before its hand-off, without instructions.

    Raises:
        CheckpointError: see `current_member`.
    """
    shown, begun, member = tuple[ModelMessage, ...](), 0, team.root
    for handed in state.handed:
        until = _handing_over(state.messages, begun, handed.at)
        earlier = (*shown, *state.messages[begun:until])
        if handed.to not in member.histories:
            raise _gone(team, handed.to)
        kept = repaired(_without_instructions(member.histories[handed.to](earlier)))
        member, begun = _named(team, handed.to), handed.at
        shown = _opened(kept, handed)
    return shown


def _named(team: Team, name: str) -> Member:
    if name not in team.others:
        raise _gone(team, name)
    return team.others[name]


def _gone(team: Team, name: str) -> CheckpointError:
    known = ", ".join(team.others) or "none"
    return CheckpointError(
        f"the run was handed over to {name!r}, to whom this agent cannot hand over; it can to: {known}."
    )


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
