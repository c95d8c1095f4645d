"""Reward of mathematics: 1 for the correct final answer, 0 otherwise, None for an unreadable gold."""

from __future__ import annotations

from collections.abc import Callable

from modelstack.reasoning.verifiers.math_answers import final_answer
from modelstack.reasoning.verifiers.math_comparison import Symbolic, compare
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, unscorable
from modelstack.reasoning.verifiers.symbolic import shared


class MathVerifier:
    """Verifier that compares the final answer (`math_answers`) with the gold (`math_comparison`)."""

    def __init__(self, *, lenient: bool = False, symbolic: Callable[[], Symbolic] = shared) -> None:
        """Store how an answer is extracted and compared.

        Args:
            lenient: Whether the last number counts if no answer is marked.
            symbolic: Returns the comparison of expressions; called only if gold or answer is one.
        """
        self._lenient, self._symbolic = lenient, symbolic

    def score(self, item: Item[str], completion: Completion) -> Reward:
        """Return reward 1 or 0, or None if the gold cannot be read.

        Raises:
            UserError: The gold or the answer is an expression and math-verify is not installed.
        """
        found = final_answer(completion.text, lenient=self._lenient)
        answer = "" if found is None else found.text
        verdict = compare(item.gold, answer, self._symbolic)
        if verdict is None:
            return unscorable(f"the gold {item.gold[:80]!r} cannot be read")
        if found is None:
            return Reward(0.0, "no final answer")
        return Reward(float(verdict), f"{found.place}, gold {item.gold[:80]!r}", answer)
