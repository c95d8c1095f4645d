"""The agent loop as a pure function: (state, observation) -> (state, actions).

Plan, act, observe, replan (ReAct, arXiv 2210.03629): a response of the model becomes tool calls to run or a
final answer; what the tools returned becomes the next request. Here are all decisions and no I/O; the runner
performs the actions and reports back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from agentkit.errors import UnexpectedModelBehavior, UserError
from agentkit.limits import RunUsage, UsageLimits
from agentkit.messages import (
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    RetryPromptPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
    new_call_id,
)
from agentkit.near_names import MAX_NAME_CHARS, near_names
from agentkit.planning.plan import Plan, PlanStep, answered, given_up, progressed, revised, told
from agentkit.state import HandedOver, RunState, RunStatus


@dataclass(frozen=True, slots=True)
class LoopRules:
    """What the loop must know of the agent; tools may change from step to step."""

    max_retries: Mapping[str, int]
    """The callable tools and how often each may be retried in a row."""
    limits: UsageLimits = UsageLimits()
    output_retries: int = 1
    max_revisions: int | None = None
    """Of a plan; None where the run has no planner."""
    handoffs: Mapping[str, str] = field(default_factory=dict[str, str])
    """Tools that hand over, and the name of the agent that each hands over to."""


_CUT_SHORT: Mapping[str, RunStatus] = {"length": "truncated", "content_filter": "filtered"}
"""Finish reasons of an answer that is not whole, and how a run ends with it."""


@dataclass(frozen=True, slots=True)
class CallModel:
    """Ask the model; without calls if `final`."""

    final: bool = False


@dataclass(frozen=True, slots=True)
class RunTools:
    """Run these calls, in order where a tool is a barrier; `refused` are answered already."""

    calls: tuple[ToolCallPart, ...]
    refused: tuple[ModelRequestPart, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadOutput:
    """Parse and validate the answer in the last response; `status` holds if that goes well."""

    response: ModelResponse
    status: RunStatus


@dataclass(frozen=True, slots=True)
class Finish:
    """The run ends without an answer to read."""

    status: RunStatus


@dataclass(frozen=True, slots=True)
class MakePlan:
    """Ask the planner, for the first time or again."""

    reason: str | None = None
    """Why the plan must be revised; None where there is none yet."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """Another agent goes on with the run, as the state says."""

    to: str


Action = CallModel | RunTools | ReadOutput | Finish | MakePlan | HandOver


@dataclass(frozen=True, slots=True)
class ToolOutcomes:
    """What the calls of a `RunTools` gave, in the order of the calls; `refused` parts included."""

    parts: tuple[ModelRequestPart, ...]
    n_run: int
    """How many calls count as run: all that were admitted. Denied ones too, or a model could ask for ever."""


@dataclass(frozen=True, slots=True)
class OutputRejected:
    """The answer did not pass its validation."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A guardrail blocked what the user wrote, or what the model answered."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What the planner said."""

    task: str
    steps: tuple[PlanStep, ...] | None
    """None: there is no other way; the current step is left out."""
    usage: RunUsage = RunUsage()
    """Of the model, where it was asked."""


@dataclass(frozen=True, slots=True)
class PlanUpset:
    """Something the plan did not foresee; the user's words if it was they."""

    reason: str
    said: str | None = None


Observation = ModelRequest | ModelResponse | ToolOutcomes | OutputRejected | Refused | Planned | PlanUpset


def step(state: RunState, seen: Observation, rules: LoopRules) -> tuple[RunState, Action]:
    """Return the next state and the one action that follows from what was seen.

    Raises:
        UnexpectedModelBehavior: the answer stayed invalid after all retries.
    """
    match seen:
        case ModelRequest():
            state, action = _ask(state, seen.parts, rules)
        case ModelResponse():
            state, action = _on_response(state, seen, rules)
        case ToolOutcomes():
            state, action = _on_outcomes(state, seen, rules)
        case OutputRejected():
            state, action = _on_rejected(state, seen, rules)
        case Refused():
            action = Finish("refused")
        case Planned():
            state, action = _on_planned(state, seen, rules)
        case PlanUpset():
            plan = None if state.plan is None else replace(state.plan, to_revise=seen.reason)
            said = () if seen.said is None else (UserPromptPart(seen.said),)
            state, action = _ask(replace(state, plan=plan), said, rules)
    ending = action.status if isinstance(action, (ReadOutput, Finish)) else None
    return (state if state.ending == ending else replace(state, ending=ending)), action


def next_action(state: RunState, rules: LoopRules) -> Action:
    """Return the action that a stored state stands before: the same that `step` gave with it.

    Raises:
        UserError: the state is of a run that has not begun.
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
        return _admit(state, last.tool_calls, rules)
    return _next_turn(state, rules)


def _on_response(state: RunState, response: ModelResponse, rules: LoopRules) -> tuple[RunState, Action]:
    response = _with_own_ids(response)
    calls = response.tool_calls
    state = replace(
        state,
        messages=(*state.messages, response),
        step=state.step + 1,
        usage=state.usage.plus_request(response.usage),
        confidence=_least(state.confidence, response),
    )
    if response.abstained:
        return state, Finish("abstained")
    cut_short = _CUT_SHORT.get(response.finish_reason or "")
    if state.limit is not None:
        is_unfinished = _is_unfinished(state)
        # A model without a grammar may call tools although it may not.
        state = _without_running(state, calls, f"{state.limit} is reached")
        status = "limit_reached" if is_unfinished else cut_short or "completed"
        return state, ReadOutput(response, status) if response.text else Finish(cut_short or "limit_reached")
    if calls and cut_short != "filtered":
        return state, _admit(state, calls, rules)
    if cut_short is not None:
        state = _without_running(state, calls, "the response was filtered")
        return state, ReadOutput(response, cut_short) if response.text else Finish(cut_short)
    if not response.text:
        return _on_rejected(state, OutputRejected("The response was empty: call a tool or answer."), rules)
    if state.plan is not None and state.plan.current is not None:
        state = replace(state, plan=answered(state.plan, response.text))
        if state.plan is not None and state.plan.current is not None:
            return _ask(state, (), rules)
    return state, ReadOutput(response, "completed")


def _is_unfinished(state: RunState) -> bool:
    """Whether a limit cut the run short: it was calling tools, or had steps of a plan before it."""
    own = islice(reversed(state.messages), len(state.messages) - state.n_history)
    has_called = any(isinstance(message, ModelResponse) and message.tool_calls for message in own)
    return has_called or (state.plan is not None and state.plan.current is not None)


def _admit(state: RunState, calls: tuple[ToolCallPart, ...], rules: LoopRules) -> RunTools:
    """Sort out calls of unknown tools, those over the budget and one that was cut off; each gets its answer."""
    budget = rules.limits.tool_calls_limit
    room = len(calls) if budget is None else max(0, budget - state.usage.tool_calls)
    admitted: list[ToolCallPart] = []
    refused: list[ModelRequestPart] = []
    for call in calls:
        if call.tool_name not in rules.max_retries or call.tool_name in state.disabled_tools:
            refused.append(_unknown(call, state, rules))
        elif call is calls[-1] and _is_cut_off(call, state):
            refused.append(RetryPromptPart(_CUT_OFF, call.tool_name, call.tool_call_id))
        elif len(admitted) >= room:
            refused.append(_not_run(call, f"tool_calls_limit={budget} is reached"))
        else:
            admitted.append(call)
    return RunTools(tuple(admitted), tuple(refused))


_CUT_OFF = (
    "The response was cut off at its token limit before this call was complete; it was not run. Repeat the call "
    "with shorter arguments."
)


def _is_cut_off(call: ToolCallPart, state: RunState) -> bool:
    """Whether the last call of the last response is incomplete; empty arguments would pass as an empty object."""
    response = state.messages[-1]
    if not isinstance(response, ModelResponse) or response.finish_reason != "length":
        return False
    try:
        call.arguments_dict()
    except (ValueError, RecursionError):
        return True
    return not call.arguments.strip()


def _on_outcomes(state: RunState, seen: ToolOutcomes, rules: LoopRules) -> tuple[RunState, Action]:
    retries = dict(state.retries)
    disabled = list(state.disabled_tools)
    parts: list[ModelRequestPart] = []
    for part in seen.parts:
        name = part.tool_name if isinstance(part, (ToolReturnPart, RetryPromptPart)) else None
        if isinstance(part, RetryPromptPart) and name is not None and name in rules.max_retries:
            retries[name] = retries.get(name, 0) + 1
            if retries[name] > rules.max_retries[name]:
                if name not in disabled:
                    disabled.append(name)
                part = replace(part, content=f"{part.content}\n{name!r} cannot be called any more in this run.")
        elif name is not None:
            retries.pop(name, None)
        parts.append(part)
    state = replace(
        state,
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
    """Return the first result that hands the run over."""
    returned = (part for part in parts if isinstance(part, ToolReturnPart) and part.tool_name in rules.handoffs)
    return next((part for part in returned if not part.is_error), None)


def _handed_over(
    state: RunState, parts: tuple[ModelRequestPart, ...], transfer: ToolReturnPart, rules: LoopRules
) -> tuple[RunState, Action]:
    """Let the other agent begin afresh; budget, taint and standing grants are the run's."""
    state = _append(state, ModelRequest(parts))
    to = rules.handoffs[transfer.tool_name]
    state = replace(
        state,
        handed=(*state.handed, HandedOver(to, len(state.messages), str(transfer.data))),
        retries=(),
        disabled_tools=(),
        output_retries=0,
        plan=None,
        compacted=None,
    )
    return state, HandOver(to)


def _on_rejected(state: RunState, seen: OutputRejected, rules: LoopRules) -> tuple[RunState, Action]:
    if state.ending in ("truncated", "filtered"):  # asked for again it would hardly be whole
        return state, Finish(state.ending)
    request_limit = rules.limits.request_limit
    no_requests_left = request_limit is not None and state.usage.requests >= request_limit
    if no_requests_left or (state.limit is not None and state.output_retries >= rules.output_retries):
        return state, Finish("limit_reached")
    if state.output_retries >= rules.output_retries:
        raise UnexpectedModelBehavior(
            f"the answer was still invalid after {rules.output_retries} "
            f"{'retry' if rules.output_retries == 1 else 'retries'}: {seen.reason} "
            f"Raise `retries`, or use a model with a grammar (`profile.grammar`)."
        )
    state = replace(state, output_retries=state.output_retries + 1)
    return _ask(state, (RetryPromptPart(seen.reason),), rules)


def _ask(state: RunState, parts: tuple[ModelRequestPart, ...], rules: LoopRules) -> tuple[RunState, Action]:
    """Send `parts` to the model, for the last time and without calls once a limit is reached."""
    if state.limit is None and (limit := _reached(state, parts, rules)) is not None:
        state = replace(state, limit=limit)
    if state.plan is not None and state.limit is None:
        state, note = _with_plan(state, state.plan, rules)
        parts = (*parts, *note)
    if parts:
        state = _append(state, ModelRequest(parts))
    return state, _next_turn(state, rules)


def _reached(state: RunState, parts: tuple[ModelRequestPart, ...], rules: LoopRules) -> str | None:
    """Name the limit that leaves room for no further tool turn; `parts` are not in the state yet."""
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
    results = [part for part in parts if isinstance(part, (ToolReturnPart, RetryPromptPart)) and part.tool_name]
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
    """Return what the model is told of its plan; nothing while that is to be revised."""
    if not plan.is_halfway and plan.current is not None and rules.limits.is_halfway(state.usage):
        plan = replace(plan, is_halfway=True, to_revise=plan.to_revise or "half of the budget is gone")
    if plan.to_revise is not None and plan.n_revisions >= (rules.max_revisions or 0):
        plan = given_up(plan) if plan.current is not None else replace(plan, to_revise=None)
    if plan.to_revise is not None or not plan.steps:
        return replace(state, plan=plan), ()
    plan, note = told(plan)
    return replace(state, plan=plan), note


def _on_planned(state: RunState, seen: Planned, rules: LoopRules) -> tuple[RunState, Action]:
    state = replace(state, usage=state.usage.plus(seen.usage))
    if state.plan is None:
        plan = Plan(seen.task, seen.steps or ())
    elif seen.steps is None:
        plan = given_up(state.plan)
    else:
        plan = revised(state.plan, seen.steps)
    return _ask(replace(state, plan=plan), (), rules)


def _with_own_ids(response: ModelResponse) -> ModelResponse:
    """Tell calls apart to which a server gave the same id."""
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
    return replace(state, messages=(*state.messages, message))


def _unknown(call: ToolCallPart, state: RunState, rules: LoopRules) -> RetryPromptPart:
    callable_now = [name for name in rules.max_retries if name not in state.disabled_tools]
    near = near_names(call.tool_name, callable_now, n=3, cutoff=0.5)
    known = f"Nearest: {', '.join(near)}." if near else f"Callable: {', '.join(callable_now[:20]) or 'none'}."
    return RetryPromptPart(
        f"There is no tool {call.tool_name[:MAX_NAME_CHARS]!r}. {known}", call.tool_name, call.tool_call_id
    )


def _without_running(state: RunState, calls: Sequence[ToolCallPart], reason: str) -> RunState:
    return _append(state, ModelRequest(tuple(_not_run(call, reason) for call in calls))) if calls else state


def _not_run(call: ToolCallPart, reason: str) -> ToolReturnPart:
    return ToolReturnPart(call.tool_name, call.tool_call_id, f"Not run: {reason}.", is_error=True)


def _least(confidence: float | None, response: ModelResponse) -> float | None:
    seen = [call.probability for call in response.tool_calls]
    if not seen:
        seen = [response.p_answer]
    return min((p for p in (confidence, *seen) if p is not None), default=None)
