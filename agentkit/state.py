"""The state of a run as a value: what has been said, what was used, what may still be called.

`agentkit.loop.step` turns one state into the next; nothing else decides. The tuple of messages only grows, and
earlier messages are shared between states, never copied.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agentkit.limits import RunUsage
from agentkit.messages import ModelMessage, ModelResponse, new_call_id


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stands."""

    messages: tuple[ModelMessage, ...] = ()
    n_history: int = 0
    """How many of the messages came from earlier runs."""
    run_id: str = field(default_factory=lambda: new_call_id().replace("call_", "run_"))
    usage: RunUsage = RunUsage()
    step: int = 0
    """Model responses so far."""
    retries: tuple[tuple[str, int], ...] = ()
    """Tools whose last calls in a row were sent back to the model, and how often."""
    output_retries: int = 0
    disabled_tools: frozenset[str] = frozenset()
    """Tools that used up their retries; masked out from then on."""
    limit: str | None = None
    """The usage limit that was reached; the next model turn is the last and has no tools."""
    confidence: float | None = None
    """The least probability of any decision of the run; None where the model gives none."""

    @property
    def last_response(self) -> ModelResponse | None:
        """The newest response of this run."""
        for message in reversed(self.messages[self.n_history :]):
            if isinstance(message, ModelResponse):
                return message
        return None

    def retries_of(self, tool_name: str) -> int:
        """How often in a row calls of this tool were sent back."""
        return next((count for name, count in self.retries if name == tool_name), 0)
