"""A plan as a value: steps with states, and how what happens moves them on.

Plan-and-execute (Wang et al., arXiv 2305.04091; LLMCompiler's "replan", arXiv 2312.04511): the plan is made first,
each step is one turn or a few of the model, and it is revised when it meets what it did not foresee. Here is no
model and no I/O; the loop asks these functions what comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agentkit.messages import ModelRequestPart, RetryPromptPart, ToolReturnPart, UserPromptPart

FAILURES_TO_REVISE = 2
"""A tool that failed once may have been called wrongly; one that failed twice needs another way."""
_NOTE_CHARS = 200
"""Of a result, kept with its step for whoever revises the plan."""

StepStatus = Literal["pending", "done", "failed"]


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step."""

    goal: str
    """What is to be done, as the model is told."""
    tool: str | None = None
    """The tool that does it: in this step nothing else can be called, and it must be. None: any, or an answer."""
    status: StepStatus = "pending"
    note: str = ""
    """What came of it."""
    n_failed: int = 0
    """Calls of its tool that failed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps, done ones first."""

    task: str
    """What the user asked for."""
    steps: tuple[PlanStep, ...]
    n_revisions: int = 0
    n_told: int = 0
    """Steps that the model was told of; the note after the last one counts."""
    to_revise: str | None = None
    """Why the plan must be revised before anything else."""
    is_halfway: bool = False
    """Half of the run's budget is gone, and the plan was revised because of that."""

    @property
    def n_current(self) -> int | None:
        """The first pending step, None if there is none."""
        return next((index for index, step in enumerate(self.steps) if step.status == "pending"), None)

    @property
    def current(self) -> PlanStep | None:
        """The first pending step."""
        return None if self.n_current is None else self.steps[self.n_current]

    def with_current(self, step: PlanStep) -> Plan:
        """Return the plan with another current step."""
        if self.n_current is None:
            return self
        return replace(self, steps=(*self.steps[: self.n_current], step, *self.steps[self.n_current + 1 :]))


def progressed(plan: Plan, parts: Sequence[ModelRequestPart]) -> Plan:
    """Return the plan after a response's calls gave `parts`."""
    step = plan.current
    if step is None or step.tool is None:
        return plan
    for part in parts:
        if not isinstance(part, (ToolReturnPart, RetryPromptPart)) or part.tool_name != step.tool:
            continue
        if isinstance(part, ToolReturnPart) and not part.is_error:
            return plan.with_current(replace(step, status="done", note=part.content[:_NOTE_CHARS]))
        step = replace(step, n_failed=step.n_failed + 1, note=part.content[:_NOTE_CHARS])
    plan = plan.with_current(step)
    if step.n_failed >= FAILURES_TO_REVISE:
        return replace(plan, to_revise=f"{step.tool} failed {step.n_failed} times: {step.note}")
    return plan


def answered(plan: Plan, text: str) -> Plan:
    """Return the plan after the model answered in words in a step without a tool of its own."""
    step = plan.current
    return plan if step is None else plan.with_current(replace(step, status="done", note=text[:_NOTE_CHARS]))


def given_up(plan: Plan) -> Plan:
    """Return the plan with its current step failed: there is no other way, or no revision left."""
    step = plan.current
    plan = replace(plan, to_revise=None)
    return plan if step is None else plan.with_current(replace(step, status="failed"))


def revised(plan: Plan, steps: Sequence[PlanStep]) -> Plan:
    """Return the plan with other steps in the place of those that are not done."""
    kept = tuple(step for step in plan.steps if step.status != "pending")
    return replace(plan, steps=(*kept, *steps), n_revisions=plan.n_revisions + 1, n_told=len(kept), to_revise=None)


def told(plan: Plan) -> tuple[Plan, tuple[ModelRequestPart, ...]]:
    """Return what the model is told next, nothing if it knows, and the plan in which it has been told."""
    number = plan.n_current
    if number is None:
        if plan.n_told > len(plan.steps):
            return plan, ()
        failed = [step.goal.rstrip(".") for step in plan.steps if step.status == "failed"]
        without = f" Not done: {'; '.join(failed)}." if failed else ""
        note = f"All steps are over.{without} Answer now: {plan.task}"
        return replace(plan, n_told=len(plan.steps) + 1), (UserPromptPart(note),)
    if plan.n_told > number:
        return plan, ()
    note = f"Step {number + 1} of {len(plan.steps)}: {plan.steps[number].goal}"
    return replace(plan, n_told=number + 1), (UserPromptPart(note),)
