"""Planners: a template that code supplies, and a model that writes the plan under a grammar.

A small model cannot plan a long task. With a template, code defines the steps and their tools; the model fills the
arguments, which the grammar keeps valid, and answers at the end.
"""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from agentkit.basics.near_names import MAX_NAME_CHARS, near_names
from agentkit.context import RunContext
from agentkit.errors import ModelRetry, UnexpectedModelBehavior, UserError
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    SystemPromptPart,
    UserPromptPart,
)
from agentkit.models.base import OutputSchema
from agentkit.planning.plan import Plan, PlanStep
from agentkit.tools.definition import ToolDefinition

T = TypeVar("T")

Ask = Callable[[Sequence[ModelMessage], OutputSchema], Awaitable[ModelResponse]]
"""Asks the run's model for a structured answer, outside the conversation.

The request counts in the run's usage and emits a `SideRequestEvent`. If the run's limits allow only the last
answer, it raises `NoRequestLeft`. A planner should let it propagate: the run continues without these steps.
"""

_NAMES_TOLD = 20
"""Number of tools listed for a model that named an unknown tool; the number in `agentkit.run.admission`."""
_MAX_TRIES = 2
"""Maximum number of requests for one plan: a model corrects its plan after one error message or not at all."""


@dataclass(frozen=True, slots=True)
class Situation:
    """Input of a planner."""

    task: str
    """Task of the user."""
    tools: tuple[ToolDefinition, ...]
    context: RunContext[Any]
    ask: Ask
    deferred: frozenset[str] = frozenset()
    """Names of further tools, which a step may name although the model has not been shown their definitions."""


class Planner(ABC):
    """Makes a plan, and revises it after unforeseen events."""

    @property
    def max_revisions(self) -> int:
        """Maximum number of revisions in a run; after that a failing step is skipped."""
        return 2

    @abstractmethod
    async def plan(self, situation: Situation) -> Sequence[PlanStep]:
        """Return the steps; an empty plan lets the model act freely."""

    @abstractmethod
    async def revise(self, situation: Situation, plan: Plan, reason: str) -> Sequence[PlanStep] | None:
        """Return steps that replace the pending ones; None skips the current step."""

    async def holds(self, plan: Plan, context: RunContext[Any]) -> bool:
        """Return whether the current step's precondition holds, just before the model is asked."""
        return True


Precondition = Callable[[RunContext[Any]], "bool | Awaitable[bool]"]


@dataclass(frozen=True, slots=True)
class TemplateStep:
    """A step of a template."""

    goal: str
    """Goal of the step; `{task}` is replaced by the task."""
    tool: str | None = None
    when: Precondition | None = None
    """Precondition, checked before each turn of the step; if it does not hold, the plan is revised."""
    otherwise: Sequence[TemplateStep] = ()
    """Steps that replace this one in a revision; empty: the step is skipped."""


class PlanTemplate(Planner):
    """Plans with steps that code supplies; the model fills the arguments."""

    def __init__(
        self,
        steps: Sequence[TemplateStep] | Callable[[str], Sequence[TemplateStep]],
        *,
        max_revisions: int = 2,
    ) -> None:
        """Set the steps, or a function of the task that returns them."""
        self._steps = steps
        self._max_revisions = max_revisions

    @property
    def max_revisions(self) -> int:
        """The number given at construction."""
        return self._max_revisions

    async def plan(self, situation: Situation) -> Sequence[PlanStep]:
        """Return the template's steps.

        Raises:
            UserError: a step names an unknown tool.
        """
        steps = self._of(situation.task)
        known = {tool.name for tool in situation.tools} | situation.deferred
        for step in _all(steps):
            if step.tool is not None and step.tool not in known:
                raise UserError(f"plan step {step.goal!r} names tool {step.tool!r}; there are {sorted(known)}.")
        return [_made(step, situation.task) for step in steps]

    async def revise(self, situation: Situation, plan: Plan, reason: str) -> Sequence[PlanStep] | None:
        """Return the current step's `otherwise` steps, followed by the remaining steps; None without any."""
        current = plan.current
        template = None if current is None else self._template_of(current, situation.task)
        if template is None or not template.otherwise:
            return None
        behind = [step for step in plan.steps if step.status == "pending"][1:]
        return [*(_made(step, situation.task) for step in template.otherwise), *behind]

    async def holds(self, plan: Plan, context: RunContext[Any]) -> bool:
        """Return the result of the current step's `when`; True without one."""
        template = None if plan.current is None else self._template_of(plan.current, plan.task)
        if template is None or template.when is None:
            return True
        holds = template.when(context)
        return await holds if inspect.isawaitable(holds) else holds

    def _of(self, task: str) -> Sequence[TemplateStep]:
        return self._steps(task) if callable(self._steps) else self._steps

    def _template_of(self, step: PlanStep, task: str) -> TemplateStep | None:
        """Return the template step of a plan step, found by goal and tool: a stored plan has no functions."""
        made = (template for template in _all(self._of(task)))
        return next((t for t in made if (_made(t, task).goal, t.tool) == (step.goal, step.tool)), None)


class ModelPlanner(Planner):
    """Asks the run's model for the plan, in a form that a grammar enforces.

    If a filter of the model withholds the plan, there are no steps: the filter judges the run's own replies, too.
    """

    def __init__(self, *, max_steps: int = 8, max_revisions: int = 2) -> None:
        """Set the bounds of a plan.

        Raises:
            UserError: `max_steps` is below 1.
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
        """Ask the model for the steps.

        Raises:
            UnexpectedModelBehavior: the second attempt is still invalid, or names an unknown tool.
        """
        return await self._asked(situation, f"Task: {situation.task}")

    async def revise(self, situation: Situation, plan: Plan, reason: str) -> Sequence[PlanStep] | None:
        """Ask the model for the remaining steps, with the plan so far and the reason for the revision.

        Raises:
            UnexpectedModelBehavior: see `plan`.
        """
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
        schema, wrong = _schema(names, self._max_steps), ""
        messages: list[ModelMessage] = [ModelRequest((SystemPromptPart(instructions), UserPromptPart(prompt)))]
        for _ in range(_MAX_TRIES):
            response = await situation.ask(messages, schema)
            if response.finish_reason == "content_filter":
                return []
            try:
                return _read(response.text, names)
            except ModelRetry as signal:
                wrong = str(signal)
                messages += [response, ModelRequest((RetryPromptPart(wrong),))]
        raise UnexpectedModelBehavior(
            f"the model's plan was still wrong after {_MAX_TRIES} tries: {wrong} "
            f"Use a model with a grammar (`profile.grammar`), or a `PlanTemplate`."
        )


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
    """Parse a plan; a model without a grammar may have written anything.

    Raises:
        ModelRetry: the text is not a plan, or names an unknown tool; the message is for the model.
    """
    try:
        steps = [(str(step["goal"]), str(step["tool"])) for step in json.loads(text)["steps"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        form = 'a JSON object {"steps": [{"goal": "...", "tool": "..."}]}'
        raise ModelRetry(f"The plan {text[:200]!r} cannot be read ({error!r}). Answer with {form}.") from error
    unknown = dict.fromkeys(tool for _, tool in steps if tool not in names and tool != "none")
    if unknown:
        raise ModelRetry(" ".join(_unknown_tool(tool, names) for tool in unknown))
    return [PlanStep(goal, None if tool == "none" else tool) for goal, tool in steps]


def _unknown_tool(tool: str, names: Sequence[str]) -> str:
    near = near_names(tool, names, n=3, cutoff=0.5)
    known = f"Nearest: {', '.join(near)}." if near else f"There are: {', '.join([*names[:_NAMES_TOLD], 'none'])}."
    return f"The plan names tool {tool[:MAX_NAME_CHARS]!r}, which does not exist. {known}"


def _made(step: TemplateStep, task: str) -> PlanStep:
    return PlanStep(step.goal.replace("{task}", task), step.tool)


def _all(steps: Sequence[TemplateStep]) -> list[TemplateStep]:
    return [each for step in steps for each in (step, *_all(step.otherwise))]
