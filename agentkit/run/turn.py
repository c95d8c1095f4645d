"""Calls of one response: guardrails first, then approvals, then the tools, then guardrails again.

No call of a response runs while another one waits for a decision, so that a person can allow all or nothing.
Earlier decisions and answers are kept, also those from a process that was killed. A call of an external tool waits
for its result, while the other calls run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agentkit.approvals.pending import EXTERNAL, IN_DOUBT, PendingCall
from agentkit.approvals.questions import asked_now, attempted, is_allowed, question
from agentkit.approvals.rules import reason_to_ask
from agentkit.events import ApprovalRequestedEvent
from agentkit.history.repair import not_finished
from agentkit.messages import (
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    RetryPromptPart,
    ToolCallPart,
    ToolReturnPart,
)
from agentkit.run.actions import RunTools, ToolOutcomes
from agentkit.run.inner_runs import InnerRuns
from agentkit.run.nested_calls import NestedCalls
from agentkit.run.repeated_calls import with_copies
from agentkit.run.state import RunState
from agentkit.run.turn_scope import TurnScope, call_scope, checked, checked_external, is_external
from agentkit.tools.execution import TurnProgress, run_calls


async def run_turn(state: RunState, action: RunTools, scope: TurnScope) -> tuple[RunState, ToolOutcomes | None]:
    """Run the calls that have no answer yet; return no outcomes if a call waits (see `RunState.pending`).

    Raises:
        AgentRunError: see `run_calls`; or the journal cannot be written.
    """
    answered, asked = {part.tool_call_id for part in state.answers}, {call.tool_call_id for call in action.calls}
    calls = [call for call in action.calls if call.tool_call_id not in answered]
    state, calls, waiting = await _admitted(state, calls, scope)
    has_external = any(scope.tools[call.tool_name].is_external for call in action.calls)
    wanted = _wanted(state, calls, waiting, scope) if has_external else []
    if waiting:
        return _wait(state, (*waiting, *wanted), scope), None
    if wanted:
        elsewhere = {call.tool_call_id for call in wanted}
        calls = [call for call in calls if call.tool_call_id not in elsewhere]
    inner = scope.context.inner
    assert inner is not None  # every run has one
    nested = NestedCalls(state, scope, scope.nested) if scope.nested else None
    made = call_scope(state, calls, scope, n_open=len(calls))
    if nested is not None:
        made = replace(made, context=replace(made.context, call_tool=nested.call))
    results = await run_calls(calls, made)
    answers = (*state.answers, *(part for part in results if not isinstance(part, PendingCall)))
    # Calls answered earlier count too: their process may have died before it stored the taint.
    made_calls = (*action.calls, *calls)  # with the arguments of the model, and of guardrails
    untrusted = any(scope.tools[call.tool_name].taints(call.arguments) for call in made_calls)
    tainted = state.tainted or inner.tainted or untrusted
    if nested is not None:
        answers, tainted = (*answers, *nested.answers), tainted or nested.tainted
    if tainted != state.tainted:
        state = replace(state, tainted=tainted)
    waiting = [call for call in results if isinstance(call, PendingCall)]
    if waiting or wanted:
        state, waiting = _asking(replace(state, answers=answers, inner=inner.left()), waiting, inner)
        return _wait(state, (*waiting, *wanted), scope), None
    parts = [*(part for part in answers if part.tool_call_id in asked), *action.refused]
    if has_external:
        parts = [await _checked_result(part, action.calls, scope) for part in parts]
    if len(parts) > len(results):
        parts = in_call_order(state, parts)
    return state, ToolOutcomes(tuple(parts), len(action.calls), action.copied, action.withdrawn)


def _wanted(
    state: RunState, calls: Sequence[ToolCallPart], waiting: Sequence[PendingCall], scope: TurnScope
) -> list[PendingCall]:
    """Return the questions for the results of external tools; calls that wait for an approval come later."""
    asked = {call.tool_call_id for call in waiting}
    external = (call for call in calls if is_external(call, scope.tools[call.tool_name]))
    return [question(state, call, EXTERNAL, "external") for call in external if call.tool_call_id not in asked]


async def _checked_result(
    part: ModelRequestPart, calls: Sequence[ToolCallPart], scope: TurnScope
) -> ModelRequestPart:
    """Return the result of an external tool after the guardrails; other parts unchanged."""
    if not isinstance(part, (ToolReturnPart, RetryPromptPart)):
        return part
    call = next((call for call in calls if call.tool_call_id == part.tool_call_id), None)
    return part if call is None else await checked_external(part, call, scope.tools[call.tool_name], scope)


def interrupted(state: RunState, action: RunTools, progress: TurnProgress) -> RunState:
    """Answer every open call, so that the conversation stays usable; the answer says whether the call had started.

    The journal does not record these answers: interrupted calls stay in flight there.
    """
    known = {part.tool_call_id: part for part in state.answers} | progress.answers
    parts = [
        known.get(call.tool_call_id)
        or (not_finished(call) if call.tool_call_id in progress.started else _not_begun(call))
        for call in action.calls
    ]
    answered = ModelRequest(tuple(with_copies([*parts, *action.refused], action.copied, last_response(state))))
    return replace(state, messages=(*state.messages, answered), answers=(), pending=(), inner=())


def _not_begun(call: ToolCallPart) -> ToolReturnPart:
    text = "Not run: the run was interrupted before this call began."
    return ToolReturnPart(call.tool_name, call.tool_call_id, text, is_error=True)


def in_call_order(state: RunState, parts: Sequence[Any]) -> list[Any]:
    """Sort answers by the calls of the last response."""
    return with_copies(parts, {}, last_response(state))


def last_response(state: RunState) -> ModelResponse:
    """Return the response whose calls are being run."""
    response = state.messages[-1]
    assert isinstance(response, ModelResponse)  # RunTools always follows a response
    return response


async def _admitted(
    state: RunState, calls: Sequence[ToolCallPart], scope: TurnScope
) -> tuple[RunState, list[ToolCallPart], list[PendingCall]]:
    """Return the state with the answers of blocked calls, the calls after guardrails, and those that wait."""
    unknown = {call.tool_call_id for call in state.pending if call.kind == "unknown"}
    blocked: list[ToolReturnPart] = []
    admitted: list[ToolCallPart] = []
    waiting: list[PendingCall] = []
    for call in calls:
        tool = scope.tools[call.tool_name]
        if call.tool_call_id in unknown and not tool.is_repeatable:
            waiting.append(question(state, call, IN_DOUBT, "unknown"))
            continue
        call, reason = await checked(call, tool, scope)
        if isinstance(reason, ToolReturnPart):
            blocked.append(reason)
            continue
        reason = reason or await reason_to_ask(tool, call, scope.context)
        if reason and not is_allowed(state, call):
            waiting.append(question(state, call, reason))
        admitted.append(call)
    if blocked:
        state = replace(state, answers=(*state.answers, *blocked))
    return state, admitted, waiting


def _asking(
    state: RunState, waiting: Sequence[PendingCall], inner: InnerRuns
) -> tuple[RunState, list[PendingCall]]:
    """Return the state and the questions of calls that returned without a result.

    A call that was allowed and asks again has used up its grant: its new question needs a new approval.
    """
    asks = [(call, inner.asks(call)) for call in waiting]
    own = [call for call, of_inner in asks if of_inner is None]
    ids = {call.tool_call_id for call in own if call.kind != "external"}  # the call has not asked again
    state = attempted(state, [grant.tool_call_id for grant in state.grants if grant.tool_call_id in ids])
    shown: list[PendingCall] = []
    for call, of_inner in asks:
        shown += [asked_now(state, call)] if of_inner is None else of_inner
    return state, shown


def _wait(state: RunState, calls: Sequence[PendingCall], scope: TurnScope) -> RunState:
    if scope.emit is not None:
        for call in calls:
            scope.emit(ApprovalRequestedEvent(call))
    return replace(state, pending=tuple(calls))
