"""Questions about the calls of a run, and the grants that answer them.

A question is a `PendingCall`: its digest covers the run, the step, the call, its arguments, the kind of question
and the number of the attempt. A grant for a call answers exactly one question. A standing grant, from
`approve(for_run=True)`, allows every call of its tool, but never another attempt of a call of unknown outcome.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from agentkit.approvals.pending import PendingCall, QuestionKind, pending_call, question_digest
from agentkit.messages import ToolCallPart
from agentkit.run.state import RunState


def question(state: RunState, call: ToolCallPart, reason: str, kind: QuestionKind = "approval") -> PendingCall:
    """Return the question whether a call may be attempted now."""
    attempt = state.attempts_of(call.tool_call_id) + 1
    return pending_call(call, reason, kind, place=_place(state), attempt=attempt)


def asked_now(state: RunState, pending: PendingCall) -> PendingCall:
    """Return a question with the attempt and digest that this state gives it."""
    attempt = state.attempts_of(pending.tool_call_id) + 1
    pending = replace(pending, attempt=attempt)
    return replace(pending, digest=question_digest(pending, _place(state)))


def is_granted(state: RunState, asked: PendingCall) -> bool:
    """Return whether a grant of the state answers a question."""
    for grant in state.grants:
        is_standing = grant.tool_call_id is None
        if is_standing and asked.kind == "unknown":
            continue
        if grant.covers(asked.tool_name, asked.tool_call_id, asked.digest):
            return True
    return False


def is_allowed(state: RunState, call: ToolCallPart) -> bool:
    """Return whether a grant allows the call, either as an approval or in spite of an unknown outcome."""
    return is_granted(state, question(state, call, "")) or is_granted(state, question(state, call, "", "unknown"))


def attempted(state: RunState, call_ids: Iterable[str]) -> RunState:
    """Return the state with one more used attempt of each call; grants for earlier attempts are removed."""
    used = list(call_ids)
    if not used:
        return state
    attempts = dict(state.attempts)
    for call_id in used:
        attempts[call_id] = attempts.get(call_id, 0) + 1
    grants = tuple(grant for grant in state.grants if grant.tool_call_id not in used)
    return replace(state, attempts=tuple(attempts.items()), grants=grants)


def _place(state: RunState) -> str:
    return f"{state.run_id}\0{state.step}"
