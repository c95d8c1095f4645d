"""A client's request for a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentkit.events import RunRequestedEvent
from agentkit.file_references import event_with_references

if TYPE_CHECKING:
    from agentkit.messages import Content, ModelMessage
    from agentkit.tools.definition import ToolDefinition


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A client's request for a run."""

    prompt: Content
    session: str | None = None
    """The client's name of the conversation that the run continues."""
    idempotency_key: str | None = None
    """Text of the client's: a request that repeats it is answered with the same run."""
    timeout_s: float | None = None
    """Seconds until the run is cancelled; None takes the service's limit."""
    history: tuple[ModelMessage, ...] = ()
    """Earlier conversation, without a session."""
    tools: tuple[ToolDefinition, ...] = ()
    """Tools that the client runs itself (`client_tool`)."""
    is_fork: bool = False
    """Whether the model answers the last message of `history`, instead of the prompt."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    """Stored with the run, for the adapter of a protocol."""

    def event(self, run_id: str, deadline: float | None) -> RunRequestedEvent:
        """Return the request as the first event of its run; `deadline` in seconds since 1970."""
        return RunRequestedEvent(run_id, self.prompt, self.session, deadline, self.history, self.tools)

    def is_repeated_by(self, event: RunRequestedEvent) -> bool:
        """Whether the run of an event was asked for by an equal request."""
        asked = event_with_references(self.event(event.run_id, event.deadline), {})
        return event_with_references(event, {}) == asked
