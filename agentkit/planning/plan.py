"""A plan as a value: steps with statuses, and pure functions that advance them.

Plan-and-execute (Wang et al., arXiv 2305.04091; LLMCompiler's "replan", arXiv 2312.04511): the plan is made first,
each step takes one or a few turns of the model, and unforeseen events cause a revision. This module has no model
and no I/O; the loop calls its functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agentkit.messages import ModelRequestPart, RetryPromptPart, ToolReturnPart, UserPromptPart

FAILURES_TO_REVISE = 2
"""Number of failed calls that cause a revision: one failure may be a wrong call, two need another approach."""
_NOTE_CHARS = 200
"""Maximum number of characters of a result that a step stores for a revision."""

StepStatus = Literal["pending", "done", "failed"]


@dataclass(frozen=True, slots=True)
class PlanStep:
    """A step of a plan."""

    goal: str
    """Goal of the step, in the words for the model."""
    tool: str | None = None
    """The only tool that can be called in this step, and must be. None: any tool, or an answer."""
    status: StepStatus = "pending"
    note: str = ""
    """Beginning of the result or of the last error."""
    n_failed: int = 0
    """Number of failed calls of its tool."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps, completed ones first."""

    task: str
    """Task of the user."""
    steps: tuple[PlanStep, ...]
    n_revisions: int = 0
    n_told: int = 0
    """Number of steps announced to the model; the closing note counts as one more."""
    to_revise: str | None = None
    """Reason for a required revision; None if none is required."""
    is_halfway: bool = False
    """True if half of a usage limit was reached, which requires one revision."""

    @property
    def n_current(self) -> int | None:
        """Index of the first pending step; None if there is none."""
        return next((index for index, step in enumerate(self.steps) if step.status == "pending"), None)

    @property
    def current(self) -> PlanStep | None:
        """First pending step; None if there is none."""
        return None if self.n_current is None else self.steps[self.n_current]

    def with_current(self, step: PlanStep) -> Plan:
        """Return the plan with another current step."""
        if self.n_current is None:
            return self
        return replace(self, steps=(*self.steps[: self.n_current], step, *self.steps[self.n_current + 1 :]))


def progressed(plan: Plan, parts: Sequence[ModelRequestPart]) -> Plan:
    """Return the plan after the calls of a response returned `parts`."""
    step = plan.current
    if step is None or step.tool is None:
        return plan
    for part in parts:
        if not isinstance(part, (ToolReturnPart, RetryPromptPart)) or part.tool_name != step.tool:
            continue
        if isinstance(part, ToolReturnPart) and not part.is_error:
            return plan.with_current(replace(step, status="done", note=part.text[:_NOTE_CHARS]))
        step = replace(step, n_failed=step.n_failed + 1, note=part.text[:_NOTE_CHARS])
    return _attempted(plan, step)


def answered(plan: Plan, text: str) -> tuple[Plan, tuple[ModelRequestPart, ...]]:
    """Return the plan after the model answered with text, and what the model is told.

    A step without a tool is done. A step with a tool has failed once more: words have no effect.
    """
    step = plan.current
    if step is None:
        return plan, ()
    if step.tool is None:
        return plan.with_current(replace(step, status="done", note=text[:_NOTE_CHARS])), ()
    step = replace(step, n_failed=step.n_failed + 1, note="it was answered in words")
    told = f"Nothing was done: the step {step.goal!r} needs a call of {step.tool!r}. Call it."
    return _attempted(plan, step), (UserPromptPart(told),)


def _attempted(plan: Plan, step: PlanStep) -> Plan:
    """Return the plan with its current step as it is after an attempt that failed, or was none."""
    plan = plan.with_current(step)
    if step.n_failed >= FAILURES_TO_REVISE:
        return replace(plan, to_revise=f"{step.tool} failed {step.n_failed} times: {step.note}")
    return plan


def given_up(plan: Plan) -> Plan:
    """Return the plan with its current step failed, because no alternative or no revision is left."""
    step = plan.current
    plan = replace(plan, to_revise=None)
    return plan if step is None else plan.with_current(replace(step, status="failed"))


def revised(plan: Plan, steps: Sequence[PlanStep]) -> Plan:
    """Return the plan with `steps` in place of the pending ones."""
    kept = tuple(step for step in plan.steps if step.status != "pending")
    return replace(plan, steps=(*kept, *steps), n_revisions=plan.n_revisions + 1, n_told=len(kept), to_revise=None)


def told(plan: Plan) -> tuple[Plan, tuple[ModelRequestPart, ...]]:
    """Return the plan with its next note marked as sent, and the note; no note if the model already has it."""
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
