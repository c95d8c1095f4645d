"""Context shared by the calls of one turn, and the guardrail check of a single call before it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from agentkit.approvals.pending import PendingCall
from agentkit.approvals.questions import is_allowed
from agentkit.approvals.rules import reason_to_ask
from agentkit.context import RunContext
from agentkit.errors import ModelRetry, UserError
from agentkit.events import AgentEvent
from agentkit.files import FileLimits
from agentkit.messages import RetryPromptPart, ToolCallPart, ToolReturnPart
from agentkit.run.state import CallAnswer, RunState
from agentkit.tools.execution import CallResult, CallScope, Execute, TurnProgress
from agentkit.tools.tool import OnToolError, Tool

if TYPE_CHECKING:
    from agentkit.guardrails.checks import Checks
    from agentkit.middleware import Middleware
    from agentkit.persistence.checkpointer import RunJournal


@dataclass(frozen=True, slots=True)
class TurnScope:
    """Context shared by the calls of one turn."""

    tools: Mapping[str, Tool]
    context: RunContext[Any]
    emit: Callable[[AgentEvent], None] | None
    default_timeout_s: float | None
    on_tool_error: OnToolError
    checks: Checks | None = None
    checks_if_tainted: Callable[[], Checks | None] | None = None
    """Returns the checks of a run that has become tainted; None if `checks` already are these."""
    journal: RunJournal | None = None
    is_stored: bool = True
    """True if the journal has the turn's state; otherwise the start of the first call stores it."""
    nested: Mapping[str, Tool] = field(default_factory=dict[str, Tool])
    """Tools that only other tools can call."""
    progress: TurnProgress = field(default_factory=TurnProgress)
    """Calls that have started and calls that have ended."""
    around_call: Callable[[ToolCallPart], AbstractContextManager[object]] | None = None
    """See `CallScope`."""
    middleware: Sequence[Middleware] = ()
    file_limits: FileLimits = FileLimits()


async def checked(
    call: ToolCallPart, tool: Tool, scope: TurnScope
) -> tuple[ToolCallPart, str | ToolReturnPart | None]:
    """Return a call after the guardrails, with the reason to ask, the answer of a blocked call, or None."""
    if scope.checks is None:
        return call, None
    from agentkit.guardrails.verdicts import Block

    call, verdict = await scope.checks.call(call, tool, scope.context)
    if isinstance(verdict, Block):
        text = f"The call was blocked: {verdict.reason}"
        return call, ToolReturnPart(call.tool_name, call.tool_call_id, text, is_error=True)
    return call, verdict.reason if verdict is not None else None


def is_external(call: ToolCallPart, tool: Tool) -> bool:
    """Return whether the application must run the call; a call with invalid arguments goes back to the model."""
    if not tool.is_external:
        return False
    try:
        tool.validate(call.arguments)
    except ModelRetry:
        return False
    return True


async def checked_external(
    part: CallAnswer, call: ToolCallPart, tool: Tool, scope: TurnScope
) -> ToolReturnPart | RetryPromptPart:
    """Return the result that the application gave to a call, after the guardrails of tool results."""
    if not tool.is_external or scope.checks is None or not scope.checks.guardrails.tool_result:
        return part
    return await scope.checks.result(part, call, tool, scope.context)


def call_scope(state: RunState, calls: Sequence[ToolCallPart], scope: TurnScope, *, n_open: int) -> CallScope:
    """Return the scope of calls; the last of `n_open` answers is not recorded, because the state stores it."""
    granted: frozenset[str] = frozenset()
    if state.grants:
        granted = frozenset(call.tool_call_id for call in calls if is_allowed(state, call))
    checks, journal = scope.checks, scope.journal
    return CallScope(
        tools=scope.tools,
        context=scope.context,
        emit=scope.emit,
        default_timeout_s=scope.default_timeout_s,
        on_tool_error=scope.on_tool_error,
        retries_of=state.retries_of,
        approved=granted,
        on_start=None if journal is None else _start_noted(journal, None if scope.is_stored else state),
        check_result=checks.result if checks is not None and checks.guardrails.tool_result else None,
        on_result=None if journal is None else _result_noted(journal, n_open),
        progress=scope.progress,
        around_call=scope.around_call,
        file_limits=scope.file_limits,
        execute=_execute(state, scope) if scope.middleware else None,
    )


def _execute(state: RunState, scope: TurnScope) -> Execute | None:
    """Return the execution of calls through middleware; None if none concerns calls."""
    from agentkit.run.through_middleware import around_tools, executed

    around = around_tools(scope.middleware)

    async def recheck(call: ToolCallPart, tool: Tool) -> ToolCallPart | ToolReturnPart:
        call, reason = await checked(call, tool, scope)
        if isinstance(reason, ToolReturnPart):
            return reason
        reason = reason or await reason_to_ask(tool, call, scope.context)
        if reason and not is_allowed(state, call):
            raise UserError(
                f"middleware changed the arguments of a call of {call.tool_name!r}, and the changed call requires "
                f"an approval: {reason}. Change arguments that require approval in a tool-call guardrail, which "
                f"runs before the approval."
            )
        return call

    return partial(executed, around, recheck) if around else None


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
