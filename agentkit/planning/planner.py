"""Planners: a template that code supplies, and a model that writes the plan under a grammar.

A small model never plans a long task. With a template the code says which steps there are and which tool does
each; the model fills the arguments, which the grammar keeps valid, and answers at the end.
"""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from agentkit.context import RunContext
from agentkit.errors import UnexpectedModelBehavior, UserError
from agentkit.messages import ModelRequest, ModelResponse, SystemPromptPart, UserPromptPart
from agentkit.models.model import OutputSchema
from agentkit.planning.plan import Plan, PlanStep
from agentkit.tools.definition import ToolDefinition

T = TypeVar("T")

Ask = Callable[[Sequence[ModelRequest], OutputSchema], Awaitable[ModelResponse]]
"""Asks the run's model for a structured answer, apart from the conversation; what it costs counts for the run."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a planner knows."""

    task: str
    """What the user asks for."""
    tools: tuple[ToolDefinition, ...]
    context: RunContext[Any]
    ask: Ask


class Planner(ABC):
    """Makes a plan, and another one when it meets what it did not foresee."""

    @property
    def max_revisions(self) -> int:
        """So often a run's plan may be revised; after that a step that fails is left out."""
        return 2

    @abstractmethod
    async def plan(self, situation: Situation) -> Sequence[PlanStep]:
        """Return the steps; none leaves the model to itself."""

    @abstractmethod
    async def revise(self, situation: Situation, plan: Plan, reason: str) -> Sequence[PlanStep] | None:
        """Return steps in the place of those that are not done; None: leave the current one out and go on."""

    async def holds(self, plan: Plan, context: RunContext[Any]) -> bool:
        """Say whether the current step's precondition holds, just before the model is asked."""
        return True


Precondition = Callable[[RunContext[Any]], "bool | Awaitable[bool]"]


@dataclass(frozen=True, slots=True)
class TemplateStep:
    """A step that code supplies."""

    goal: str
    """May hold `{task}`."""
    tool: str | None = None
    when: Precondition | None = None
    """Must hold before the step begins; if not, the plan is revised."""
    otherwise: Sequence[TemplateStep] = ()
    """Steps in its place if its tool failed twice, or `when` does not hold; none: it is left out."""


class PlanTemplate(Planner):
    """Steps that code supplies; the model fills the arguments."""

    def __init__(
        self,
        steps: Sequence[TemplateStep] | Callable[[str], Sequence[TemplateStep]],
        *,
        max_revisions: int = 2,
    ) -> None:
        """Give the steps, or a function of the task that gives them."""
        self._steps = steps
        self._max_revisions = max_revisions

    @property
    def max_revisions(self) -> int:
        """The number given at construction."""
        return self._max_revisions

    async def plan(self, situation: Situation) -> Sequence[PlanStep]:
        """Return the template's steps.

        Raises:
            UserError: a step names a tool that there is not.
        """
        steps = self._of(situation.task)
        known = {tool.name for tool in situation.tools}
        for step in _all(steps):
            if step.tool is not None and step.tool not in known:
                raise UserError(f"plan step {step.goal!r} names tool {step.tool!r}; there are {sorted(known)}.")
        return [_made(step, situation.task) for step in steps]

    async def revise(self, situation: Situation, plan: Plan, reason: str) -> Sequence[PlanStep] | None:
        """Return what stands in the current step's `otherwise`, and the steps behind it as they were."""
        current = plan.current
        template = None if current is None else self._template_of(current, situation.task)
        if template is None or not template.otherwise:
            return None
        behind = [step for step in plan.steps if step.status == "pending"][1:]
        return [*(_made(step, situation.task) for step in template.otherwise), *behind]

    async def holds(self, plan: Plan, context: RunContext[Any]) -> bool:
        """Ask the step's `when`."""
        template = None if plan.current is None else self._template_of(plan.current, plan.task)
        if template is None or template.when is None:
            return True
        holds = template.when(context)
        return await holds if inspect.isawaitable(holds) else holds

    def _of(self, task: str) -> Sequence[TemplateStep]:
        return self._steps(task) if callable(self._steps) else self._steps

    def _template_of(self, step: PlanStep, task: str) -> TemplateStep | None:
        """Find the step of the template that a plan's step was made from: a stored plan has no functions."""
        made = (template for template in _all(self._of(task)))
        return next((t for t in made if (_made(t, task).goal, t.tool) == (step.goal, step.tool)), None)


class ModelPlanner(Planner):
    """The run's model writes the plan, in a form that its grammar holds it to."""

    def __init__(self, *, max_steps: int = 8, max_revisions: int = 2) -> None:
        """Bound the plan.

        Raises:
            UserError: a plan could have no step.
        """
        if max_steps < 1:
            raise UserError(f"max_steps={max_steps}: a plan needs a step.")
        self._max_steps = max_steps
        self._max_revisions = max_revisions

    @property
    def max_revisions(self) -> int:
        """The number given at construction."""
        return self._max_revisions

    async def plan(self, situation: Situation) -> Sequence[PlanStep]:
        """Ask the model for the steps."""
        return await self._asked(situation, f"Task: {situation.task}")

    async def revise(self, situation: Situation, plan: Plan, reason: str) -> Sequence[PlanStep] | None:
        """Tell the model what was done and what went wrong, and ask for the remaining steps."""
        lines = [f"- {step.status}: {step.goal}" + (f" ({step.note})" if step.note else "") for step in plan.steps]
        told = "\n".join(lines)
        prompt = (
            f"Task: {situation.task}\nThe plan so far:\n{told}\nIt must be changed: {reason}\n"
            f"Give the steps that remain."
        )
        return await self._asked(situation, prompt)

    async def _asked(self, situation: Situation, prompt: str) -> list[PlanStep]:
        names = [tool.name for tool in situation.tools]
        described = "\n".join(f"- {tool.name}: {tool.description.splitlines()[0] if tool.description else ''}"
                              for tool in situation.tools)  # fmt: skip
        instructions = (
            f"Write a plan of at most {self._max_steps} steps for the task. Each step has a goal and the tool "
            f'that does it, or "none" if no tool is needed. Tools:\n{described}'
        )
        request = ModelRequest((SystemPromptPart(instructions), UserPromptPart(prompt)))
        response = await situation.ask((request,), _schema(names, self._max_steps))
        return _read(response.text, names)


def _schema(names: Sequence[str], max_steps: int) -> OutputSchema:
    step = {
        "type": "object",
        "properties": {"goal": {"type": "string"}, "tool": {"enum": [*names, "none"]}},
        "required": ["goal", "tool"],
        "additionalProperties": False,
    }
    steps = {"type": "array", "items": step, "minItems": 1, "maxItems": max_steps}
    return OutputSchema(
        "plan",
        {"type": "object", "properties": {"steps": steps}, "required": ["steps"], "additionalProperties": False},
    )


def _read(text: str, names: Sequence[str]) -> list[PlanStep]:
    """Read a plan; a model without a grammar may have written anything.

    Raises:
        UnexpectedModelBehavior: it is no plan, or names a tool that there is not.
    """
    try:
        steps = [(str(step["goal"]), step["tool"]) for step in json.loads(text)["steps"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UnexpectedModelBehavior(f"the model's plan cannot be read ({error!r}): {text[:200]!r}.") from error
    unknown = [tool for _, tool in steps if tool not in names and tool != "none"]
    if unknown:
        raise UnexpectedModelBehavior(f"the model's plan names tools that there are not: {unknown!r}.")
    return [PlanStep(goal, None if tool == "none" else tool) for goal, tool in steps]


def _made(step: TemplateStep, task: str) -> PlanStep:
    return PlanStep(step.goal.replace("{task}", task), step.tool)


def _all(steps: Sequence[TemplateStep]) -> list[TemplateStep]:
    return [each for step in steps for each in (step, *_all(step.otherwise))]
