"""The calls of one response: guardrails first, then whoever must be asked, then the tools, then guardrails again.

Nothing of a response runs while one of its calls waits for a decision: what is allowed may be all or nothing. What
was decided or answered before, in this process or in one that was killed, stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agentkit.approvals import PendingCall, pending_call
from agentkit.context import RunContext
from agentkit.events import AgentEvent, ApprovalRequestedEvent
from agentkit.loop import RunTools, ToolOutcomes
from agentkit.messages import ModelRequest, ModelResponse, ToolCallPart, ToolReturnPart
from agentkit.repair import not_finished
from agentkit.state import RunState
from agentkit.tools.approval import reason_to_ask
from agentkit.tools.definition import Tool
from agentkit.tools.execution import CallResult, CallScope, run_calls

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
    journal: RunJournal | None = None


async def run_turn(state: RunState, action: RunTools, scope: TurnScope) -> tuple[RunState, ToolOutcomes | None]:
    """Run the calls that have no answer yet; no outcomes where one of them waits, as the state says then.

    Raises:
        AgentRunError: as `run_calls`, or the journal cannot be written.
    """
    answered = {part.tool_call_id for part in state.answers}
    calls = [call for call in action.calls if call.tool_call_id not in answered]
    state, calls, waiting = await _admitted(state, calls, scope)
    if waiting:
        return _wait(state, waiting, scope), None
    results = await run_calls(calls, _call_scope(state, calls, scope))
    answers = (*state.answers, *(part for part in results if not isinstance(part, PendingCall)))
    state = replace(
        state, tainted=state.tainted or any(scope.tools[call.tool_name].is_untrusted for call in calls)
    )
    waiting = [call for call in results if isinstance(call, PendingCall)]
    if waiting:
        return _wait(replace(state, answers=answers), waiting, scope), None
    parts = [*answers, *action.refused]
    if len(parts) > len(results):
        parts = in_call_order(state, parts)
    return state, ToolOutcomes(tuple(parts), n_run=len(action.calls))


def interrupted(state: RunState, action: RunTools) -> RunState:
    """Keep the conversation usable: a call that was cut off still has a result, which says so.

    A journal is not told: there the calls stay in flight.
    """
    known = {part.tool_call_id: part for part in state.answers}
    parts = [known.get(call.tool_call_id) or not_finished(call) for call in action.calls]
    answered = ModelRequest(tuple(in_call_order(state, [*parts, *action.refused])))
    return replace(state, messages=(*state.messages, answered), answers=(), pending=())


def in_call_order(state: RunState, parts: Sequence[Any]) -> list[Any]:
    """Sort answers by the calls of the last response."""
    response = state.messages[-1]
    assert isinstance(response, ModelResponse)  # RunTools always follows a response
    order = {call.tool_call_id: index for index, call in enumerate(response.tool_calls)}
    return sorted(parts, key=lambda part: order[part.tool_call_id])


async def _admitted(
    state: RunState, calls: Sequence[ToolCallPart], scope: TurnScope
) -> tuple[RunState, list[ToolCallPart], list[PendingCall]]:
    """Return the calls as they may run, those that wait, and the state with the answers to what was blocked."""
    unknown = {call.tool_call_id: call for call in state.pending if call.kind == "unknown"}
    blocked: list[ToolReturnPart] = []
    admitted: list[ToolCallPart] = []
    waiting: list[PendingCall] = []
    for call in calls:
        tool = scope.tools[call.tool_name]
        if call.tool_call_id in unknown and not tool.is_repeatable:
            waiting.append(unknown[call.tool_call_id])
            continue
        call, reason = await _checked(call, tool, scope)
        if isinstance(reason, ToolReturnPart):
            blocked.append(reason)
            continue
        reason = reason or await reason_to_ask(tool, call, scope.context)
        asked = pending_call(call, reason) if reason else None
        if asked is not None and not _is_granted(state, asked):
            waiting.append(asked)
        admitted.append(call)
    if blocked:
        state = replace(state, answers=(*state.answers, *blocked))
    return state, admitted, waiting


async def _checked(
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


def _is_granted(state: RunState, call: PendingCall) -> bool:
    return any(grant.covers(call.tool_name, call.tool_call_id, call.digest) for grant in state.grants)


def _wait(state: RunState, calls: Sequence[PendingCall], scope: TurnScope) -> RunState:
    if scope.emit is not None:
        for call in calls:
            scope.emit(ApprovalRequestedEvent(call))
    return replace(state, pending=tuple(calls))


def _call_scope(state: RunState, calls: Sequence[ToolCallPart], scope: TurnScope) -> CallScope:
    call_scope = CallScope(
        tools=scope.tools,
        context=scope.context,
        emit=scope.emit,
        default_timeout_s=scope.default_timeout_s,
        retries_of=state.retries_of,
    )
    if state.grants:
        granted = frozenset(call.tool_call_id for call in calls if _is_granted(state, pending_call(call, "")))
        call_scope = replace(call_scope, approved=granted)
    if scope.checks is not None and scope.checks.guardrails.tool_result:
        call_scope = replace(call_scope, check_result=scope.checks.result)
    return call_scope if scope.journal is None else _journalled(call_scope, scope.journal, len(calls))


def _journalled(call_scope: CallScope, journal: RunJournal, n_open: int) -> CallScope:
    async def on_start(call: ToolCallPart, tool: Tool) -> None:
        await journal.call_started(call, durable=bool(tool.definition.annotations.destructive))

    async def on_result(result: CallResult) -> None:
        nonlocal n_open
        n_open -= 1
        if n_open and not isinstance(result, PendingCall):  # the last one is stored with the state
            await journal.call_answered(result)

    return replace(call_scope, on_start=on_start, on_result=on_result)
