"""Resuming a stored run: claims it, applies the decisions about its waiting calls, and finds interrupted calls.

A decision refers to the question that a person saw: an approval with another digest has no effect, and the call
still waits. A decision about a call of an inner run, `CALL.INNER_CALL`, is applied to the inner run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from agentkit.approvals.pending import (
    IN_DOUBT,
    Approve,
    Decision,
    Deny,
    Grant,
    PendingCall,
    QuestionKind,
    Settle,
)
from agentkit.approvals.questions import attempted, question
from agentkit.basics.well_formed import well_formed
from agentkit.errors import CheckpointError, UserError
from agentkit.messages import ModelRequest, ToolReturnPart
from agentkit.run.state import CallAnswer, InnerRun, RunState

if TYPE_CHECKING:
    from agentkit.persistence.checkpointer import Checkpointer, RunJournal
    from agentkit.persistence.session import Session


async def claimed(
    checkpointer: Checkpointer, run: str | RunState, *, agent_name: str | None
) -> tuple[RunState, RunJournal]:
    """Claim a run from its journal; return its state and the journal for the following steps.

    Raises:
        CheckpointError: the run is unknown or damaged, in progress elsewhere, or newer than the state `run`.
        UserError: the run belongs to another agent.
    """
    run_id = run if isinstance(run, str) else run.run_id
    stored = await checkpointer.load(run_id)  # checked before the claim, which takes the run from its holder
    if stored.summary.agent_name != agent_name:
        raise UserError(
            f"run {stored.state.run_id} was made by agent {stored.summary.agent_name!r}, not {agent_name!r}."
        )
    _check_same(run, stored.state)
    stored, journal = await checkpointer.claim(run_id)
    try:
        _check_same(run, stored.state)  # the run may have continued, and ended, in between
    except CheckpointError:
        await journal.release()
        raise
    return with_unknown(stored.state, stored.in_flight, stored.inner_kept), journal


def _check_same(run: str | RunState, stored: RunState) -> None:
    if isinstance(run, RunState) and not _is_same(run, stored):
        raise CheckpointError(
            f"the journal of run {run.run_id} has gone on since this state; resume it by its id."
        )


def _is_same(given: RunState, stored: RunState) -> bool:
    """Return whether two states have the same stored form; tuples in a given history are stored as lists."""
    from agentkit.persistence.stored_state import state_to_json

    return given == stored or state_to_json(given) == state_to_json(stored)


async def version_before(session: Session, state: RunState) -> str | None:
    """Return the session version that a run was started from; None if the session already has the run's messages.

    Raises:
        CheckpointError: the session is another one, or has changed since.
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


def with_unknown(state: RunState, in_flight: Sequence[str], inner_kept: Sequence[str] = ()) -> RunState:
    """Return the state in which the calls that were running when their process ended wait for a decision.

    A call that performs an inner run does not wait itself if the journal stored that run (`inner_kept`): the inner
    run resumes, and its own calls that were running wait.
    """
    inner = tuple(
        replace(run, state=with_unknown(run.state, _within(run, in_flight), _within(run, inner_kept)))
        for run in state.inner
    )
    goes_on = {run.call_id for run in inner if run.call_id in inner_kept}
    open_calls = {call.tool_call_id: call for call in state.open_calls}
    known = {call.tool_call_id for call in state.pending} | goes_on
    cut_off = [call_id for call_id in in_flight if call_id in open_calls and call_id not in known]
    of_inner = {f"{run.call_id}.{call_id}" for run in inner for call_id in _within(run, in_flight)}
    nested = [
        call_id
        for call_id in in_flight
        if call_id.rpartition(".")[0] in open_calls and call_id not in goes_on | of_inner
    ]
    state = attempted(replace(state, inner=inner, in_doubt=(*state.in_doubt, *nested)), (*cut_off, *nested))
    found = (question(state, open_calls[call_id], IN_DOUBT, "unknown") for call_id in cut_off)
    return replace(state, pending=(*state.pending, *found))


def _within(run: InnerRun, call_ids: Sequence[str]) -> list[str]:
    """Return the ids of an inner run's calls, without the prefix that they have in the outer run."""
    outer = f"{run.call_id}."
    return [call_id.removeprefix(outer) for call_id in call_ids if call_id.startswith(outer)]


def decided(state: RunState, decisions: Sequence[Decision]) -> RunState:
    """Return the state with `decisions` applied to its waiting calls.

    Raises:
        UserError: a decision is about a call that does not wait, settles a call that has not run, or approves a
            call of an external tool.
    """
    state, decisions = _decided_inside(state, decisions)
    waiting = {call.tool_call_id: call for call in state.pending}
    grants, answers = list(state.grants), list(state.answers)
    for decision in decisions:
        call = waiting.get(decision.tool_call_id)
        if call is None and _is_late(state, decision, answers):
            continue
        if call is None:
            known = ", ".join(waiting) or "none"
            raise UserError(
                f"call {decision.tool_call_id!r} of run {state.run_id} does not wait for a decision; "
                f"waiting: {known}."
            )
        if isinstance(decision, Approve):
            if decision.digest != call.digest:
                continue
            if call.kind == "external":
                raise UserError(
                    f"call {call.tool_call_id!r} of {call.tool_name!r} is run by the application: settle it with "
                    f"its result, or deny it."
                )
            grants += _grants(call, for_run=decision.for_run)
        elif isinstance(decision, Settle) and decision.digest not in (None, call.digest):
            continue
        else:
            answers.append(_answer(call, decision))
        del waiting[call.tool_call_id]
    return replace(state, grants=tuple(grants), answers=tuple(answers), pending=tuple(waiting.values()))


def _decided_inside(state: RunState, decisions: Sequence[Decision]) -> tuple[RunState, Sequence[Decision]]:
    """Apply decisions about calls of inner runs to those runs; return the state and the other decisions."""
    if not state.inner:
        return state, decisions
    asked = {call.tool_call_id for call in state.pending}
    inner: list[InnerRun] = []
    routed: set[str] = set()
    still: set[str] = set()
    for run in state.inner:
        own = {f"{run.call_id}.{call.tool_call_id}": call.tool_call_id for call in run.state.pending}
        own = {outer: call_id for outer, call_id in own.items() if outer in asked}
        given = [each for each in decisions if each.tool_call_id in own]
        given = [replace(each, tool_call_id=own[each.tool_call_id]) for each in given]
        run = replace(run, state=decided(run.state, given))
        routed |= own.keys()
        still |= {f"{run.call_id}.{call.tool_call_id}" for call in run.state.pending}
        inner.append(run)
    pending = tuple(call for call in state.pending if call.tool_call_id not in routed - still)
    others = [each for each in decisions if each.tool_call_id not in routed]
    return replace(state, inner=tuple(inner), pending=pending), others


def _is_late(state: RunState, decision: Decision, answers: Sequence[CallAnswer]) -> bool:
    """Return whether a decision is a duplicate: its call is granted, settled, or nested in an open call."""
    call_id = decision.tool_call_id
    if isinstance(decision, Deny):
        return False
    if isinstance(decision, Settle):
        own = state.messages[state.n_history :]
        parts = (part for message in own if isinstance(message, ModelRequest) for part in message.parts)
        known = {part.tool_call_id for part in (*answers, *parts) if isinstance(part, ToolReturnPart)}
        if any(call_id == each or call_id.startswith(f"{each}.") for each in known):
            return True
    elif any(grant.digest == decision.digest for grant in state.grants):
        return True
    return any(decision.tool_call_id.startswith(f"{call.tool_call_id}.") for call in state.open_calls)


def _grants(call: PendingCall, *, for_run: bool) -> list[Grant]:
    granted = [Grant(call.tool_name, call.tool_call_id, call.digest)]
    return [*granted, Grant(call.tool_name, None, None)] if for_run else granted


_DENIED: Mapping[QuestionKind, str] = {
    "approval": "Not allowed",
    "unknown": "Interrupted, it may have taken effect; not run again",
    "external": "Not run",
}


def _answer(call: PendingCall, decision: Deny | Settle) -> CallAnswer:
    if isinstance(decision, Deny):
        what = _DENIED[call.kind]
        text = well_formed(f"{what}: {decision.reason}") if decision.reason else f"{what}."
        return ToolReturnPart(call.tool_name, call.tool_call_id, text, is_error=True)
    if call.kind == "approval":
        raise UserError(
            f"call {call.tool_call_id!r} of {call.tool_name!r} has not run, so it has no result to settle: "
            f"approve or deny it."
        )
    content = well_formed(decision.content)
    return ToolReturnPart(call.tool_name, call.tool_call_id, content, content, is_error=decision.is_error)
