"""The verifier that a recipe names, with what stands around it: a gate of form, penalties of length.

A form is a gate, not a summand, and a penalty is small: what is easy to satisfy is farmed by a policy that cannot
do the task (`composition`). So correctness is the only thing that pays.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from modelstack.errors import UserError
from modelstack.reasoning.tasks.golds import VerifierName
from modelstack.reasoning.verifiers.answer_forms import FormedGym
from modelstack.reasoning.verifiers.calls import CallVerifier
from modelstack.reasoning.verifiers.code import CodeVerifier
from modelstack.reasoning.verifiers.composition import Component, Composition
from modelstack.reasoning.verifiers.effects import EffectVerifier
from modelstack.reasoning.verifiers.formats import StrictJson, ThinkFormat
from modelstack.reasoning.verifiers.gym import GymVerifier
from modelstack.reasoning.verifiers.lengths import Repetition, SoftOverlong
from modelstack.reasoning.verifiers.mathematics import MathVerifier
from modelstack.reasoning.verifiers.outcomes import OutcomeVerifier
from modelstack.reasoning.verifiers.quoting import QuotesNoGrader
from modelstack.reasoning.verifiers.rewards import Verifier


class VerifierPlan(BaseModel):
    """What judges the tasks of a recipe: `verifier = "json"`, or a table with more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: VerifierName
    gate: Literal["think"] | None = None
    """A form without which nothing counts: one block of `<think>`, then the answer."""
    gate_quotes: bool = False
    """Whether a reply that quotes the grader is worth nothing (`quoting.MARKS`)."""
    overlong_tokens: int = Field(default=0, ge=0)
    """Below the sampler's limit, over which a penalty grows to -1 (DAPO); 0: there is none."""
    repetition: float = Field(default=0.0, ge=0, le=0.2)
    """Penalty where all 3-grams of a reply come again; a right reply is worth 1."""
    score_truncated: bool = True
    """Whether replies that were cut off are judged; else they are left out of their group."""

    def __str__(self) -> str:
        """Return what a record calls it."""
        return self.name


def _as_table(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


VerifierChoice = Annotated[VerifierPlan, BeforeValidator(_as_table)]
"""The key `data.verifier` of a recipe: a name, or a table."""


def verifier_of(plan: VerifierPlan | VerifierName, max_tokens: int | None = None) -> Verifier[Any]:
    """Return the verifier of a plan.

    Args:
        plan: Or a name alone.
        max_tokens: The sampler's limit, where the plan has a penalty below it.

    Raises:
        UserError: A package is not installed, this machine cannot isolate programs, or the penalty for length has
            no limit or reaches below 0 tokens.
    """
    plan = plan if isinstance(plan, VerifierPlan) else VerifierPlan(name=plan)
    correctness = _BY_NAME[plan.name]()
    around: list[Component] = []
    if plan.gate is not None:
        around.append(Component("form", ThinkFormat(), "gate"))
    if plan.gate_quotes:
        around.append(Component("quotes", QuotesNoGrader(), "gate"))
    if plan.overlong_tokens:
        if max_tokens is None:
            raise UserError("overlong_tokens is a distance below the sampler's limit: give max_tokens")
        overlong = SoftOverlong(max_tokens=max_tokens, cache_tokens=plan.overlong_tokens)
        around.append(Component("overlong", overlong, "shaping"))
    if plan.repetition:
        around.append(Component("repetition", Repetition(), "shaping", plan.repetition))
    if not around and plan.score_truncated:
        return correctness
    return Composition([Component(plan.name, correctness), *around], score_truncated=plan.score_truncated)


_BY_NAME = {
    "math": lambda: MathVerifier(lenient=True),
    "json": lambda: StrictJson(lambda item: item.gold),
    "gym": lambda: FormedGym(GymVerifier()),
    "calls": CallVerifier,
    "effects": EffectVerifier,
    "outcome": lambda: OutcomeVerifier(MathVerifier(lenient=True)),
    "code": CodeVerifier,
}
