"""`RunContext`: the view of a run that tools and instruction functions receive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from agentkit.usage import RunUsage

if TYPE_CHECKING:
    from agentkit.events import AgentEvent
    from agentkit.messages import ModelMessage
    from agentkit.run.budget import Budget
    from agentkit.run.inner_runs import InnerRuns
    from agentkit.run.state import CallAnswer

    CallTool = Callable[[str, str, str], Awaitable[CallAnswer]]

DepsT = TypeVar("DepsT")


@dataclass(frozen=True, slots=True)
class RunContext(Generic[DepsT]):
    """Context of a run; passed to tools whose first parameter is annotated with it."""

    deps: DepsT
    """The application's own objects, as given to `run`."""
    run_id: str = ""
    messages: tuple[ModelMessage, ...] = ()
    """Conversation so far, without the agent's instructions."""
    usage: RunUsage = RunUsage()
    step: int = 0
    """Number of model responses so far in this run."""
    tool_name: str | None = None
    tool_call_id: str | None = None
    retry: int = 0
    """Number of consecutive calls of this tool that were already sent back to the model."""
    user: str | None = None
    """Who the run is for, as given to `run`; None if it was not given."""
    approved: bool = False
    """This call was approved, with these arguments or for the whole run."""
    tainted: bool = False
    """The conversation contains untrusted content."""
    budget: Budget | None = field(default=None, repr=False, compare=False)
    """Live usage of the run and its inner runs; None outside a run."""
    emit: Callable[[AgentEvent], None] | None = field(default=None, repr=False, compare=False)
    """Sends an event of the run; None without listeners."""
    call_tool: CallTool | None = field(default=None, repr=False, compare=False)
    """Calls another tool on behalf of this one, under the run's rules; None unless the agent has a `code_mode`."""
    inner: InnerRuns | None = field(default=None, repr=False, compare=False)
    """Inner runs that calls perform with other agents; None outside a run."""

    def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Report the progress of a long call to listeners."""
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
