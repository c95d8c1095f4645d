"""The agent loop as a pure function: (state, observation) -> (state, actions).

Plan, act, observe, replan (ReAct, arXiv 2210.03629): a response of the model becomes tool calls or a final answer;
the tool results become the next request. This module makes all decisions and does no I/O; the runner performs the
actions and reports the observations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice

from agentkit.errors import UnexpectedModelBehavior, UserError
from agentkit.messages import (
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    RetryPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
    new_call_id,
)
from agentkit.planning.plan import Plan, answered, given_up, progressed, revised, told
from agentkit.run.actions import (
    Action,
    CallModel,
    CountedResponse,
    Finish,
    HandOver,
    MakePlan,
    Observation,
    OutOfBudget,
    OutputRejected,
    Planned,
    PlanUpset,
    ReadOutput,
    Refused,
    Shortened,
    ToolOutcomes,
)
from agentkit.run.admission import LoopRules, admitted, not_run
from agentkit.run.repeated_calls import is_repeat, with_copies
from agentkit.run.state import HandedOver, RunState, RunStatus
from agentkit.usage import RunUsage

_CUT_SHORT: Mapping[str, RunStatus] = {"length": "truncated", "content_filter": "filtered"}
"""Finish reasons of an incomplete answer, and the status of a run that ends with it."""


def step(state: RunState, seen: Observation, rules: LoopRules) -> tuple[RunState, Action]:
    """Return the next state, and the one action that follows from the observation.

    Raises:
        UnexpectedModelBehavior: the answer stayed invalid after all retries.
    """
    match seen:
        case ModelRequest():
            state, action = _ask(state, seen.parts, rules)
        case ModelResponse():
            state, action = _on_response(state, seen, state.usage.plus_request(seen.usage, seen.model_name), rules)
        case CountedResponse(response=response):
            state, action = _on_response(state, response, state.usage, rules)
        case ToolOutcomes():
            state, action = _on_outcomes(state, seen, rules)
        case OutputRejected():
            state, action = _on_rejected(state, seen, rules)
        case Refused():
            state, action = _without_blocked(state, seen), Finish("refused")
        case Planned():
            state, action = _on_planned(state, seen, rules)
        case PlanUpset():
            plan = None if state.plan is None else replace(state.plan, to_revise=seen.reason)
            said = () if seen.said is None else (UserPromptPart(seen.said),)
            state, action = _ask(state.changed(plan=plan), said, rules)
        case Shortened():
            state, action = _ask(state.changed(compacted=seen.compacted), (), rules)
        case OutOfBudget() if state.limit is not None:  # no room even for the last answer
            action = Finish("limit_reached")
        case OutOfBudget():
            state = state.changed(limit=seen.limit)
            action = _next_turn(state, rules)
    ending = action.status if isinstance(action, (ReadOutput, Finish)) else None
    return (state if state.ending == ending else state.changed(ending=ending)), action


def next_action(state: RunState, rules: LoopRules) -> Action:
    """Return the next action of a stored state: the same action that `step` returned with it.

    Raises:
        UserError: the run of the state has not begun.
    """
    response = state.last_response
    if state.ending is not None:
        if state.ending in ("abstained", "refused") or response is None or not response.text:
            return Finish(state.ending)
        return ReadOutput(response, state.ending)
    if len(state.messages) == state.n_history:
        raise UserError(f"run {state.run_id} has not begun: its state holds no message of its own.")
    last = state.messages[-1]
    if isinstance(last, ModelResponse):
        return admitted(state, last.tool_calls, rules)
    return _next_turn(state, rules)


def _on_response(
    state: RunState, response: ModelResponse, usage: RunUsage, rules: LoopRules
) -> tuple[RunState, Action]:
    response = _with_own_ids(response)
    calls = response.tool_calls
    state = state.changed(
        messages=(*state.messages, response),
        step=state.step + 1,
        usage=usage,
        confidence=_least(state.confidence, response),
    )
    if response.abstained:
        return state, Finish("abstained")
    cut_short = _CUT_SHORT.get(response.finish_reason or "")
    if state.limit is not None:
        is_unfinished = _is_unfinished(state)
        # A model without a grammar may call tools although the request allows none.
        state = _without_running(state, calls, f"{state.limit} is reached")
        status = "limit_reached" if is_unfinished else cut_short or "completed"
        return state, ReadOutput(response, status) if response.text else Finish(cut_short or "limit_reached")
    if calls and cut_short != "filtered":
        return state, admitted(state, calls, rules)
    if cut_short is not None:
        state = _without_running(state, calls, "the response was filtered")
        return state, ReadOutput(response, cut_short) if response.text else Finish(cut_short)
    if response.finish_reason == "error":  # the server broke off, or could not read a call that the model wrote
        return _on_rejected(state, OutputRejected("The response ended with an error: answer again."), rules)
    if not response.text:
        return _on_rejected(state, OutputRejected("The response was empty: call a tool or answer."), rules)
    if state.plan is not None and state.plan.current is not None:
        plan, told_of = answered(state.plan, response.text)
        state = state.changed(plan=plan)
        if plan.current is not None:
            return _ask(state, told_of, rules)
    return state, ReadOutput(response, "completed")


def _is_unfinished(state: RunState) -> bool:
    """Return whether a limit cut the run short: it had called tools, or steps of its plan were pending."""
    own = islice(reversed(state.messages), len(state.messages) - state.n_history)
    has_called = any(isinstance(message, ModelResponse) and message.tool_calls for message in own)
    return has_called or (state.plan is not None and state.plan.current is not None)


def _on_outcomes(state: RunState, seen: ToolOutcomes, rules: LoopRules) -> tuple[RunState, Action]:
    retries = dict(state.retries)
    disabled = list(state.disabled_tools)
    parts: list[ModelRequestPart] = []
    for part in seen.parts:
        name = part.tool_name if isinstance(part, (ToolReturnPart, RetryPromptPart)) else None
        if isinstance(part, RetryPromptPart) and name in state.withheld:
            pass  # offered again in a later step, the tool has all its retries
        elif isinstance(part, RetryPromptPart) and name is not None and name in rules.max_retries:
            retries[name] = retries.get(name, 0) + 1
            if retries[name] > rules.max_retries[name]:
                if name not in disabled:
                    disabled.append(name)
                part = replace(part, content=f"{part.content}\n{name!r} cannot be called any more in this run.")
        elif name is not None and not is_repeat(part):
            retries.pop(name, None)
        parts.append(part)
    disabled += [name for name in seen.withdrawn if name not in disabled]
    if seen.copied and isinstance(response := state.messages[-1], ModelResponse):
        parts = with_copies(parts, seen.copied, response)
    state = state.changed(
        retries=tuple(retries.items()),
        disabled_tools=tuple(disabled),
        answers=(),
        pending=(),
        in_doubt=(),
        attempts=(),
        inner=(),
        plan=None if state.plan is None else progressed(state.plan, parts),
        grants=tuple(grant for grant in state.grants if grant.tool_call_id is None),
        usage=state.usage.plus_tool_calls(seen.n_run),
    )
    transfer = _transfer(parts, rules)
    if transfer is not None and rules.limits.reached(state.usage) is None:
        return _handed_over(state, tuple(parts), transfer, rules)
    return _ask(state, tuple(parts), rules)


def _transfer(parts: Sequence[ModelRequestPart], rules: LoopRules) -> ToolReturnPart | None:
    """Return the first successful result of a hand-off tool."""
    returned = (part for part in parts if isinstance(part, ToolReturnPart) and part.tool_name in rules.handoffs)
    return next((part for part in returned if not part.is_error), None)


def _handed_over(
    state: RunState, parts: tuple[ModelRequestPart, ...], transfer: ToolReturnPart, rules: LoopRules
) -> tuple[RunState, Action]:
    """Reset the state for the next agent; budget, taint and standing grants belong to the run and stay."""
    state = _append(state, ModelRequest(parts))
    to = rules.handoffs[transfer.tool_name]
    state = state.changed(
        handed=(*state.handed, HandedOver(to, len(state.messages), _task(transfer))),
        retries=(),
        disabled_tools=(),
        withheld=(),
        output_retries=0,
        plan=None,
        compacted=None,
    )
    return state, HandOver(to)


def _task(transfer: ToolReturnPart) -> str:
    """Return the task of a hand-off; middleware may have answered the call with text alone."""
    return transfer.text if transfer.data is None else str(transfer.data)


def _on_rejected(state: RunState, seen: OutputRejected, rules: LoopRules) -> tuple[RunState, Action]:
    if state.ending in ("truncated", "filtered"):  # a retry would most likely be incomplete again
        return state, Finish(state.ending)
    request_limit = rules.limits.request_limit
    no_requests_left = request_limit is not None and state.usage.requests >= request_limit
    if no_requests_left or (state.limit is not None and state.output_retries >= rules.output_retries):
        return state, Finish("limit_reached")
    if state.output_retries >= rules.output_retries and seen.status and (last := state.last_response):
        return state, ReadOutput(last, seen.status)
    if state.output_retries >= rules.output_retries:
        raise UnexpectedModelBehavior(
            f"the answer was still invalid after {rules.output_retries} "
            f"{'retry' if rules.output_retries == 1 else 'retries'}: {seen.reason} "
            f"Raise `retries`, or use a model with a grammar (`profile.grammar`)."
        )
    state = state.changed(output_retries=state.output_retries + 1)
    return _ask(state, (RetryPromptPart(seen.reason),), rules)


def _ask(state: RunState, parts: tuple[ModelRequestPart, ...], rules: LoopRules) -> tuple[RunState, Action]:
    """Append `parts` as a request; once a limit is reached, the next turn is the last and has no calls."""
    if state.limit is None and (limit := _reached(state, parts, rules)) is not None:
        state = state.changed(limit=limit)
    if state.plan is not None and state.limit is None:
        state, note = _with_plan(state, state.plan, rules)
        parts = (*parts, *note)
    if parts:
        state = _append(state, ModelRequest(parts))
    return state, _next_turn(state, rules)


def _reached(state: RunState, parts: tuple[ModelRequestPart, ...], rules: LoopRules) -> str | None:
    """Return the limit that allows no further tool turn, or None; `parts` are not in the state yet."""
    most = rules.limits.repeated_failures_limit
    if (limit := rules.limits.reached(state.usage)) is not None or most is None:
        return limit
    n_failed: Counter[tuple[str, str]] = Counter()
    own = islice(reversed(state.messages), len(state.messages) - state.n_history)
    for message in chain((ModelRequest(parts),), own):
        if isinstance(message, ModelResponse):
            n_failed.update({(call.tool_name, call.arguments) for call in message.tool_calls})
        elif not _all_failed(message.parts):
            break
    return f"repeated_failures_limit={most}" if max(n_failed.values(), default=0) >= most else None


def _all_failed(parts: Sequence[ModelRequestPart]) -> bool:
    """Return whether calls failed and none succeeded; answers to repeated calls are ignored."""
    results = [part for part in parts if isinstance(part, (ToolReturnPart, RetryPromptPart)) and part.tool_name]
    results = [part for part in results if not is_repeat(part)]
    return bool(results) and all(isinstance(part, RetryPromptPart) or part.is_error for part in results)


def _next_turn(state: RunState, rules: LoopRules) -> CallModel | MakePlan:
    if rules.max_revisions is not None and state.limit is None:
        if state.plan is None:
            return MakePlan()
        if state.plan.to_revise is not None:
            return MakePlan(state.plan.to_revise)
    is_over = state.plan is not None and bool(state.plan.steps) and state.plan.current is None
    return CallModel(final=state.limit is not None or is_over)


def _with_plan(state: RunState, plan: Plan, rules: LoopRules) -> tuple[RunState, tuple[ModelRequestPart, ...]]:
    """Return the plan's note for the model; none while the plan must be revised."""
    if not plan.is_halfway and plan.current is not None and rules.limits.is_halfway(state.usage):
        plan = replace(plan, is_halfway=True, to_revise=plan.to_revise or "half of the budget is gone")
    if plan.to_revise is not None and plan.n_revisions >= (rules.max_revisions or 0):
        plan = given_up(plan) if plan.current is not None else replace(plan, to_revise=None)
    if plan.to_revise is not None or not plan.steps:
        return state.changed(plan=plan), ()
    plan, note = told(plan)
    return state.changed(plan=plan), note


def _on_planned(state: RunState, seen: Planned, rules: LoopRules) -> tuple[RunState, Action]:
    if state.plan is None:
        plan = Plan(seen.task, seen.steps or ())
    elif seen.steps is None:
        plan = given_up(state.plan)
    else:
        plan = revised(state.plan, seen.steps)
    return _ask(state.changed(plan=plan), (), rules)


ANSWER_WITHHELD = "[The answer was withheld by a guardrail.]"
MESSAGE_WITHHELD = "[A message of the user was withheld by a guardrail.]"


def _without_blocked(state: RunState, seen: Refused) -> RunState:
    """Remove blocked text from the conversation, so that no later run, session or model receives it.

    A blocked prompt removes all messages of the run. Otherwise the question stays, followed by a neutral reply.
    """
    if seen.what == "prompt":
        return state.changed(messages=state.messages[: state.n_history], plan=None)
    if seen.what == "answer":
        return with_answer(state, ANSWER_WITHHELD)
    text = MESSAGE_WITHHELD if seen.what == "interruption" else ANSWER_WITHHELD
    return _append(state, ModelResponse((TextPart(text),)))


def with_answer(state: RunState, text: str) -> RunState:
    """Return the state with `text` as the whole content of its last response.

    Calls of that response, which did not run, are removed together with their answers.
    """
    index = len(state.messages) - 1
    while not isinstance(response := state.messages[index], ModelResponse):
        index -= 1
    answer = ModelResponse(
        (TextPart(text),), response.usage, response.model_name, response.finish_reason, response.decoding
    )
    return state.changed(messages=(*state.messages[:index], answer))


def _with_own_ids(response: ModelResponse) -> ModelResponse:
    """Replace the ids of calls that share an id with an earlier call of the response."""
    seen: set[str] = set()
    if len({call.tool_call_id for call in response.tool_calls}) == len(response.tool_calls):
        return response
    parts: list[ModelResponsePart] = []
    for part in response.parts:
        if isinstance(part, ToolCallPart):
            if part.tool_call_id in seen:
                part = replace(part, tool_call_id=new_call_id())
            seen.add(part.tool_call_id)
        parts.append(part)
    return replace(response, parts=tuple(parts))


def _append(state: RunState, message: ModelRequest | ModelResponse) -> RunState:
    return state.changed(messages=(*state.messages, message))


def _without_running(state: RunState, calls: Sequence[ToolCallPart], reason: str) -> RunState:
    return _append(state, ModelRequest(tuple(not_run(call, reason) for call in calls))) if calls else state


def _least(confidence: float | None, response: ModelResponse) -> float | None:
    seen = [call.probability for call in response.tool_calls]
    if not seen:
        seen = [response.p_answer]
    return min((p for p in (confidence, *seen) if p is not None), default=None)
