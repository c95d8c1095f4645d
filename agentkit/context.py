"""What a tool or an instruction function can know of the run that it is part of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from agentkit.limits import RunUsage, UsageLimits

if TYPE_CHECKING:
    from agentkit.events import AgentEvent
    from agentkit.inner_runs import InnerRuns
    from agentkit.messages import ModelMessage
    from agentkit.state import CallAnswer

    CallTool = Callable[[str, str, str], Awaitable[CallAnswer]]

DepsT = TypeVar("DepsT")


@dataclass(frozen=True, slots=True)
class RunContext(Generic[DepsT]):
    """Passed to tools whose first parameter is annotated with it."""

    deps: DepsT
    """The application's own objects, as given to `run`."""
    run_id: str = ""
    messages: tuple[ModelMessage, ...] = ()
    usage: RunUsage = RunUsage()
    step: int = 0
    """Model responses so far in this run."""
    tool_name: str | None = None
    tool_call_id: str | None = None
    retry: int = 0
    """How often this call was sent back to the model already."""
    approved: bool = False
    """Somebody has allowed this call, with these arguments or for the whole run."""
    tainted: bool = False
    """Content that anybody may have written is in the conversation."""
    limits: UsageLimits | None = None
    """What the run may still use; None where that is not known."""
    emit: Callable[[AgentEvent], None] | None = field(default=None, repr=False, compare=False)
    """Sends an event of the run; None where nobody listens."""
    charge: Callable[[RunUsage], None] | None = field(default=None, repr=False, compare=False)
    """Counts what a tool used of models for the run's limits."""
    call_tool: CallTool | None = field(default=None, repr=False, compare=False)
    """Calls another tool for this one, under the run's rules; None unless the agent has a `code_mode`."""
    inner: InnerRuns | None = field(default=None, repr=False, compare=False)
    """Keeps the runs that calls perform with other agents; None outside of a run."""

    def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Tell listeners how far a long call is."""
        if self.emit is None:
            return
        from agentkit.events import ToolProgressEvent

        self.emit(
            ToolProgressEvent(
                tool_name=self.tool_name or "",
                tool_call_id=self.tool_call_id or "",
                progress=progress,
                total=total,
                message=message,
            )
        )
