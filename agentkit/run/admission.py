"""Admission of the calls of one response: each call runs, or is answered without running.

Pure functions of the state, so that a resumed run admits the same calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agentkit.basics.near_names import MAX_NAME_CHARS, near_names
from agentkit.limits import UsageLimits
from agentkit.messages import ModelRequestPart, ModelResponse, RetryPromptPart, ToolCallPart, ToolReturnPart
from agentkit.run.actions import RunTools
from agentkit.run.repeated_calls import CallIndex, Repeat, copies, repeated
from agentkit.run.state import RunState


@dataclass(frozen=True, slots=True)
class LoopRules:
    """Settings of the agent that the loop needs; tools may change from step to step."""

    max_retries: Mapping[str, int]
    """Callable tools and the maximum number of consecutive retries of each."""
    limits: UsageLimits = UsageLimits()
    output_retries: int = 1
    max_revisions: int | None = None
    """Maximum number of revisions of a plan; None without a planner."""
    handoffs: Mapping[str, str] = field(default_factory=dict[str, str])
    """Hand-off tools and the name of the agent that each hands over to."""
    read_only: frozenset[str] = frozenset()
    """Tools that change nothing, according to their annotations."""
    allow_repeats: frozenset[str] = frozenset()
    """Tools whose repeated equal calls all run; see `agentkit.run.repeated_calls`."""
    made: CallIndex = field(default_factory=CallIndex, repr=False, compare=False)
    """Cache of the calls in the conversation; derived from the state."""


def admitted(state: RunState, calls: tuple[ToolCallPart, ...], rules: LoopRules) -> RunTools:
    """Separate the calls to run from those that are answered without running.

    Not run are calls of unknown tools and of tools that are not offered in this step, a call that was cut off,
    repeated calls, and calls over the budget.
    """
    budget = rules.limits.tool_calls_limit
    room = len(calls) if budget is None else max(0, budget - state.usage.tool_calls)
    admitted: list[ToolCallPart] = []
    refused: list[ModelRequestPart] = []
    withdrawn: list[str] = []
    whole = calls[:-1] if calls and _is_cut_off(calls[-1], state) else calls
    copied = copies(whole, rules.allow_repeats)
    for call in calls:
        name = call.tool_name
        if name not in rules.max_retries or name in state.disabled_tools or name in state.withheld:
            refused.append(_unknown(call, state, rules))
        elif len(whole) < len(calls) and call is calls[-1]:
            refused.append(RetryPromptPart(_CUT_OFF, call.tool_name, call.tool_call_id))
        elif call.tool_call_id in copied:
            continue
        elif (repeat := _repeat(call, state, rules)) is not None:
            refused.append(repeat.answer(call))
            withdrawn += [call.tool_name] if repeat.is_told and call.tool_name not in withdrawn else []
        elif len(admitted) >= room:
            refused.append(not_run(call, f"tool_calls_limit={budget} is reached"))
        else:
            admitted.append(call)
    left = {part.tool_call_id for part in refused if isinstance(part, RetryPromptPart)}
    copied = {call_id: first for call_id, first in copied.items() if call_id not in left}
    return RunTools(tuple(admitted), tuple(refused), copied, tuple(withdrawn))


def _repeat(call: ToolCallPart, state: RunState, rules: LoopRules) -> Repeat | None:
    if call.tool_name in rules.allow_repeats:
        return None
    return repeated(state, call, rules.made, rules.read_only)


def with_room(state: RunState, action: RunTools, n_calls: int) -> RunTools:
    """Return the action with at most `n_calls` unanswered calls; outer runs have no room for more."""
    open_ids = {call.tool_call_id for call in state.open_calls}
    kept: list[ToolCallPart] = []
    refused = list(action.refused)
    for call in action.calls:
        if len(kept) >= n_calls and call.tool_call_id in open_ids:
            refused.append(not_run(call, "tool_calls_limit of the outer run is reached"))
        else:
            kept.append(call)
    return replace(action, calls=tuple(kept), refused=tuple(refused))


_CUT_OFF = (
    "The response was cut off at its token limit before this call was complete; it was not run. Repeat the call "
    "with shorter arguments."
)


def _is_cut_off(call: ToolCallPart, state: RunState) -> bool:
    """Return whether a call is the last one of a response that ended at its token limit.

    Valid arguments may still be incomplete: a grammar closes them near the limit, and empty arguments are accepted
    as an empty object.
    """
    response = state.messages[-1]
    if not isinstance(response, ModelResponse) or response.finish_reason != "length":
        return False
    return call is response.tool_calls[-1]


def _unknown(call: ToolCallPart, state: RunState, rules: LoopRules) -> RetryPromptPart:
    hidden = {*state.disabled_tools, *state.withheld}
    callable_now = [name for name in rules.max_retries if name not in hidden]
    near = near_names(call.tool_name, callable_now, n=3, cutoff=0.5)
    known = f"Nearest: {', '.join(near)}." if near else f"Callable: {', '.join(callable_now[:20]) or 'none'}."
    return RetryPromptPart(
        f"There is no tool {call.tool_name[:MAX_NAME_CHARS]!r}. {known}", call.tool_name, call.tool_call_id
    )


def not_run(call: ToolCallPart, reason: str) -> ToolReturnPart:
    """Return the answer to a call that was not run."""
    return ToolReturnPart(call.tool_name, call.tool_call_id, f"Not run: {reason}.", is_error=True)
