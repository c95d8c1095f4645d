"""A run with a plan: the planner is asked, and each step is checked before the model follows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentkit.context import RunContext
from agentkit.errors import NoRequestLeft
from agentkit.messages import UserPromptPart
from agentkit.planning.plan import PlanStep
from agentkit.planning.planner import Ask, Situation
from agentkit.run.actions import Planned, PlanUpset
from agentkit.run.offer import Offer
from agentkit.run.setup import RunSetup
from agentkit.run.state import RunState


async def made_plan(
    setup: RunSetup[Any, Any],
    state: RunState,
    offer: Offer,
    context: RunContext[Any],
    ask: Ask,
    reason: str | None,
) -> Planned:
    """Ask the planner, for the first time or again; without a request left, the run continues without steps."""
    planner = setup.planner
    assert planner is not None  # MakePlan follows from `max_revisions`, which a planner has
    task = _task(state) if state.plan is None else state.plan.task
    situation = Situation(task, offer.definitions, context, ask, frozenset(offer.deferred))
    steps: Sequence[PlanStep] | None
    try:
        if state.plan is None:
            steps = await planner.plan(situation)
        else:
            steps = await planner.revise(situation, state.plan, reason or "")
    except NoRequestLeft:
        steps = () if state.plan is None else None
    return Planned(task, None if steps is None else tuple(steps))


def _task(state: RunState) -> str:
    if state.handed:
        return state.handed[-1].task
    prompts = (part for message in state.messages[state.n_history :] for part in message.parts)
    return next((part.text for part in prompts if isinstance(part, UserPromptPart)), "")


async def upset_of_plan(
    setup: RunSetup[Any, Any], state: RunState, offer: Offer, context: RunContext[Any]
) -> PlanUpset | None:
    """Return the event that stops the run from following the current step of its plan."""
    plan, planner = state.plan, setup.planner
    if plan is None or planner is None or plan.current is None:
        return None
    tool = plan.current.tool
    if tool is not None and tool not in offer.tools:
        return PlanUpset(f"the tool {tool!r} is not there any more")
    if tool is not None and (tool in state.withheld or tool in state.disabled_tools):
        return PlanUpset(f"the tool {tool!r} cannot be called now")
    if await planner.holds(plan, context):
        return None
    return PlanUpset(f"the precondition of the step {plan.current.goal!r} does not hold")
