"""Builds the verifier of a recipe, with optional format gates and length penalties.

A format is a gate and not a summand, and penalties are small: a policy that cannot solve the task exploits any
reward that is easier to get (`composition`). Only correctness is rewarded.
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
from modelstack.reasoning.verifiers.refusals import RefusalVerifier
from modelstack.reasoning.verifiers.rewards import Verifier


class VerifierPlan(BaseModel):
    """Verifier of a recipe's tasks: `verifier = "json"`, or a table with more settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: VerifierName
    """Name of the verifier."""
    gate: Literal["think"] | None = None
    """Format that a reply must have to be rewarded: one block of `<think>`, then the answer."""
    gate_quotes: bool = False
    """Whether a reply that quotes the grader gets reward 0 (`quoting.MARKS`)."""
    overlong_tokens: int = Field(default=0, ge=0)
    """Tokens before the sampling limit over which a penalty grows to -1 (DAPO); 0: no penalty."""
    repetition: float = Field(default=0.0, ge=0, le=0.2)
    """Penalty of a reply in which every 3-gram is repeated; a correct reply has reward 1."""
    score_truncated: bool = True
    """Whether truncated replies are judged; otherwise they are excluded from their group."""

    def __str__(self) -> str:
        """Return the name used in records."""
        return self.name


def _as_table(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


VerifierChoice = Annotated[VerifierPlan, BeforeValidator(_as_table)]
"""Type of the recipe key `data.verifier`: a name, or a table."""


def verifier_of(plan: VerifierPlan | VerifierName, max_tokens: int | None = None) -> Verifier[Any]:
    """Return the verifier of a plan.

    Args:
        plan: Plan, or only the name of a verifier.
        max_tokens: Sampling limit in tokens; required by `overlong_tokens`.

    Raises:
        UserError: A package is not installed, this machine cannot isolate programs, or the length penalty has no
            limit or begins below 0 tokens.
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
            raise UserError("overlong_tokens is relative to the sampling limit: give max_tokens")
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
    "refusal": RefusalVerifier,
}
