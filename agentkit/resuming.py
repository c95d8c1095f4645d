"""Taking up a stored run: what was decided about its waiting calls, and which of its calls still ask.

A decision is about the call that somebody saw: an approval that names another
digest decides nothing, and the call goes on waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from agentkit.approvals import IN_DOUBT, Approve, Decision, Deny, Grant, PendingCall, Settle, pending_call
from agentkit.errors import CheckpointError, UserError
from agentkit.messages import ToolReturnPart
from agentkit.state import CallAnswer, RunState

if TYPE_CHECKING:
    from agentkit.persistence.checkpointer import Checkpointer, RunJournal
    from agentkit.persistence.session import Session


async def claimed(
    checkpointer: Checkpointer, run: str | RunState, *, agent_name: str | None
) -> tuple[RunState, RunJournal]:
    """Take a run up from its journal; return its state and the journal to go on with.

    Raises:
        CheckpointError: it is unknown or damaged, or has gone on since `run`.
        UserError: it is another agent's.
    """
    run_id = run if isinstance(run, str) else run.run_id
    stored = await checkpointer.load(run_id)  # a claim that is refused must not stop whoever has the run
    if stored.summary.agent_name != agent_name:
        raise UserError(
            f"run {stored.state.run_id} was made by agent {stored.summary.agent_name!r}, not {agent_name!r}."
        )
    if isinstance(run, RunState) and run != stored.state:
        raise CheckpointError(
            f"the journal of run {run.run_id} has gone on since this state; resume it by its id."
        )
    stored, journal = await checkpointer.claim(run_id)
    return with_unknown(stored.state, stored.in_flight), journal


async def version_before(session: Session, state: RunState) -> str | None:
    """Return a session's version that a run was begun from; None if it has all that the run said already.

    Raises:
        CheckpointError: the session is another one, or has gone on.
    """
    kept = await session.load()
    if kept.messages == state.messages[: state.n_history]:
        return kept.version
    if kept.messages[: len(state.messages)] == state.messages:
        return None
    raise CheckpointError(
        f"session {session.id!r}, branch {session.branch!r}, is not the one that run {state.run_id} was begun "
        f"with, or has gone on since; resume it without one, or with a branch from where it began."
    )


def with_unknown(state: RunState, in_flight: Sequence[str]) -> RunState:
    """Return the state with the calls waiting that were running when their process ended."""
    open_calls = {call.tool_call_id: call for call in state.open_calls}
    known = {call.tool_call_id for call in state.pending}
    found = [
        pending_call(open_calls[call_id], IN_DOUBT, "unknown")
        for call_id in in_flight
        if call_id in open_calls and call_id not in known
    ]
    nested = tuple(call_id for call_id in in_flight if call_id.rpartition(".")[0] in open_calls)
    if nested:
        state = replace(state, in_doubt=(*state.in_doubt, *nested))
    return replace(state, pending=(*state.pending, *found)) if found else state


def decided(state: RunState, decisions: Sequence[Decision]) -> RunState:
    """Return the state with what `decisions` say about its waiting calls.

    Raises:
        UserError: a decision is about a call that does not wait, or settles one whose outcome is known.
    """
    waiting = {call.tool_call_id: call for call in state.pending}
    grants, answers = list(state.grants), list(state.answers)
    for decision in decisions:
        call = waiting.get(decision.tool_call_id)
        if call is None:
            known = ", ".join(waiting) or "none"
            raise UserError(
                f"call {decision.tool_call_id!r} of run {state.run_id} does not wait for a decision; "
                f"waiting: {known}."
            )
        if isinstance(decision, Approve):
            if decision.digest != call.digest:
                continue
            grants.append(_grant(call, for_run=decision.for_run))
        else:
            answers.append(_answer(call, decision))
        del waiting[call.tool_call_id]
    return replace(state, grants=tuple(grants), answers=tuple(answers), pending=tuple(waiting.values()))


def _grant(call: PendingCall, *, for_run: bool) -> Grant:
    return Grant(call.tool_name, None, None) if for_run else Grant(call.tool_name, call.tool_call_id, call.digest)


def _answer(call: PendingCall, decision: Deny | Settle) -> CallAnswer:
    if isinstance(decision, Deny):
        what = "Not allowed" if call.kind == "approval" else "Interrupted, it may have taken effect; not run again"
        text = f"{what}: {decision.reason}" if decision.reason else f"{what}."
        return ToolReturnPart(call.tool_name, call.tool_call_id, text, is_error=True)
    if call.kind != "unknown":
        raise UserError(
            f"call {call.tool_call_id!r} of {call.tool_name!r} has not run, so it has no result to settle: "
            f"approve or deny it."
        )
    return ToolReturnPart(
        call.tool_name, call.tool_call_id, decision.content, decision.content, is_error=decision.is_error
    )
