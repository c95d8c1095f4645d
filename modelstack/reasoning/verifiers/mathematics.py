"""The reward of mathematics: 1 for the right final answer, 0 for another or none, None for an unreadable gold."""

from __future__ import annotations

from collections.abc import Callable

from modelstack.reasoning.verifiers.math_answers import final_answer
from modelstack.reasoning.verifiers.math_comparison import Symbolic, compare
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, unscorable
from modelstack.reasoning.verifiers.symbolic import shared


class MathVerifier:
    """Compares the final answer (`math_answers`) with the gold (`math_comparison`)."""

    def __init__(self, *, lenient: bool = False, symbolic: Callable[[], Symbolic] = shared) -> None:
        """Take how an answer is found.

        Args:
            lenient: Whether the last number counts where nothing marks an answer; the stricter sibling of a
                lenient verifier is one to hold out (`held_out`).
            symbolic: Gives what compares expressions, asked for where the gold or the answer is some.
        """
        self._lenient, self._symbolic = lenient, symbolic

    def score(self, item: Item[str], completion: Completion) -> Reward:
        """Return 1 or 0.

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
