"""Several rewards as one: gates first, then a weighted sum, each value kept for the log.

A *gate* must be 1, or the completion is worth what `closed` says, however right it is. A *correctness* component
says whether the task was done: where one cannot tell (None), nothing can, and the whole is None. A *shaping*
component (length, repetition) that cannot tell is left out.
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
    """A verifier and what it counts for."""

    name: str
    verifier: Verifier[Any]
    role: Role = "correctness"
    weight: float = 1.0
    """Of its value in the sum; a gate's is not used."""


class Composition:
    """One reward out of components."""

    def __init__(
        self, components: Sequence[Component], *, closed: float = 0.0, score_truncated: bool = True
    ) -> None:
        """Take the components.

        Args:
            components: At least one for correctness; names are unique.
            closed: The reward where a gate is shut.
            score_truncated: Whether a completion that ended at the limit of tokens is judged; else it is
                unscorable, which keeps it out of the loss instead of calling it wrong.

        Raises:
            UserError: A name comes twice or none is for correctness.
        """
        names = [component.name for component in components]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"component {twice!r} is given twice; names must be unique, they are the log's")
        if not any(component.role == "correctness" for component in components):
            raise UserError(f"components {names} have none for correctness; a policy learns what is rewarded only")
        self.components = tuple(components)
        self._closed, self._score_truncated = closed, score_truncated

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        """Return the sum; `parts` has the value of each component that was asked, before its weight."""
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
    """Return the verifiers that say whether a task was done: a composition's by name, else this one."""
    if isinstance(verifier, Composition):
        return [(part.name, part.verifier) for part in verifier.components if part.role == "correctness"]
    return [(type(verifier).__name__, verifier)]
