"""Combines several rewards into one: gates first, then a weighted sum, with each value kept for the log.

A *gate* must be 1, otherwise the completion gets the reward `closed`, even if it is correct. A *correctness*
component judges whether the task was done: if one returns None, the whole reward is None. A *shaping* component
(length, repetition) that returns None is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modelstack.errors import UserError
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, Verifier, unscorable

Role = Literal["gate", "correctness", "shaping"]


@dataclass(frozen=True, slots=True)
class Component:
    """Verifier with its role and weight."""

    name: str
    verifier: Verifier[Any]
    role: Role = "correctness"
    weight: float = 1.0
    """Factor of its value in the sum; not used for gates."""


class Composition:
    """Verifier that combines the rewards of components."""

    def __init__(
        self, components: Sequence[Component], *, closed: float = 0.0, score_truncated: bool = True
    ) -> None:
        """Store the components.

        Args:
            components: Components with unique names, at least one of them for correctness.
            closed: Reward if a gate is closed.
            score_truncated: Whether a completion that ended at the token limit is judged; otherwise it is
                unscorable, which excludes it from the loss instead of calling it wrong.

        Raises:
            UserError: A name is not unique, or no component is for correctness.
        """
        names = [component.name for component in components]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"component {twice!r} is given twice; names must be unique, as the log uses them")
        if not any(component.role == "correctness" for component in components):
            raise UserError(
                f"components {names} include none for correctness; add one, or the policy does not learn the task"
            )
        self.components = tuple(components)
        self._closed, self._score_truncated = closed, score_truncated

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        """Return the weighted sum; `parts` has the unweighted value of each evaluated component."""
        if completion.is_truncated and not self._score_truncated:
            return unscorable("truncated")
        parts: dict[str, float | None] = {}
        for gate in self._of("gate"):
            judged = gate.verifier.score(item, completion)
            parts[gate.name] = judged.value
            if judged.value is not None and judged.value < 1.0:
                return Reward(self._closed, f"{gate.name}: {judged.reason}", judged.answer, parts)
        total, reasons, answer = 0.0, list[str](), None
        is_scorable = True
        for component in (*self._of("correctness"), *self._of("shaping")):
            judged = component.verifier.score(item, completion)
            parts[component.name] = judged.value
            reasons.append(f"{component.name}: {judged.reason}")
            if component.role == "correctness":
                is_scorable = is_scorable and judged.value is not None
                answer = judged.answer if answer is None else answer
            total += component.weight * (judged.value or 0.0)
        return Reward(total if is_scorable else None, "; ".join(reasons), answer, parts)

    def _of(self, role: Role) -> list[Component]:
        return [component for component in self.components if component.role == role]


def correctness_of(verifier: Verifier[Any]) -> list[tuple[str, Verifier[Any]]]:
    """Return the verifiers for correctness with their names: those of a composition, else this one."""
    if isinstance(verifier, Composition):
        return [(part.name, part.verifier) for part in verifier.components if part.role == "correctness"]
    return [(type(verifier).__name__, verifier)]
