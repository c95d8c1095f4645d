"""What the calls of one turn share, and what happens to a single one before it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentkit.approvals import PendingCall
from agentkit.context import RunContext
from agentkit.events import AgentEvent
from agentkit.messages import ToolCallPart, ToolReturnPart
from agentkit.questions import is_allowed
from agentkit.state import RunState
from agentkit.tools.definition import Tool
from agentkit.tools.execution import CallResult, CallScope, TurnProgress

if TYPE_CHECKING:
    from agentkit.guardrails.checks import Checks
    from agentkit.persistence.checkpointer import RunJournal


@dataclass(frozen=True, slots=True)
class TurnScope:
    """What the calls are run with."""

    tools: Mapping[str, Tool]
    context: RunContext[Any]
    emit: Callable[[AgentEvent], None] | None
    default_timeout_s: float | None
    checks: Checks | None = None
    checks_if_tainted: Callable[[], Checks | None] | None = None
    """Makes the checks of a run that has become tainted; None where `checks` are these."""
    journal: RunJournal | None = None
    is_stored: bool = True
    """Whether the journal has the turn's state; otherwise it is stored with the start of the first call."""
    nested: Mapping[str, Tool] = field(default_factory=dict[str, Tool])
    """Tools that only other tools can call."""
    progress: TurnProgress = field(default_factory=TurnProgress)
    """Records what has begun and what has ended."""


async def checked(
    call: ToolCallPart, tool: Tool, scope: TurnScope
) -> tuple[ToolCallPart, str | ToolReturnPart | None]:
    """Return a call as guardrails leave it, and why somebody must be asked, or the answer that it gets instead."""
    if scope.checks is None:
        return call, None
    from agentkit.guardrails.verdicts import Block

    call, verdict = await scope.checks.call(call, tool, scope.context)
    if isinstance(verdict, Block):
        text = f"The call was blocked: {verdict.reason}"
        return call, ToolReturnPart(call.tool_name, call.tool_call_id, text, is_error=True)
    return call, verdict.reason if verdict is not None else None


def call_scope(state: RunState, calls: Sequence[ToolCallPart], scope: TurnScope, *, n_open: int) -> CallScope:
    """Return what calls are run with; the last of `n_open` answers is not noted: it is stored with the state."""
    granted: frozenset[str] = frozenset()
    if state.grants:
        granted = frozenset(call.tool_call_id for call in calls if is_allowed(state, call))
    checks, journal = scope.checks, scope.journal
    return CallScope(
        tools=scope.tools,
        context=scope.context,
        emit=scope.emit,
        default_timeout_s=scope.default_timeout_s,
        retries_of=state.retries_of,
        approved=granted,
        on_start=None if journal is None else _start_noted(journal, None if scope.is_stored else state),
        check_result=checks.result if checks is not None and checks.guardrails.tool_result else None,
        on_result=None if journal is None else _result_noted(journal, n_open),
        progress=scope.progress,
    )


def _start_noted(
    journal: RunJournal, unstored: RunState | None
) -> Callable[[ToolCallPart, Tool], Awaitable[None]]:
    async def on_start(call: ToolCallPart, tool: Tool) -> None:
        durable = bool(tool.definition.annotations.destructive)
        if unstored is None:
            await journal.call_started(call, durable=durable)
        else:
            await journal.save(unstored, "running", starting=call, durable=durable)

    return on_start


def _result_noted(journal: RunJournal, n_open: int) -> Callable[[CallResult], Awaitable[None]]:
    async def on_result(result: CallResult) -> None:
        nonlocal n_open
        n_open -= 1
        if n_open and not isinstance(result, PendingCall):
            await journal.call_answered(result)

    return on_result
