"""Expressions compared by math-verify (sympy), in a child process that may be killed.

math-verify bounds its own time by SIGALRM, which works in a main thread only, and not at all within one long
integer power. So its time-outs are off and the child's are on (`bounded_child`). Text is parsed as LaTeX, or as
arithmetic of digits and operators; no name of it reaches an evaluator.

Source: huggingface/Math-Verify 0.9, `math_verify/parser.py`, `grader.py`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cache

from modelstack.errors import UserError
from modelstack.reasoning.verifiers.bounded_child import BoundedChild, ChildLimits, TookTooLong

CHILD = "modelstack.reasoning.verifiers.symbolic_child:answer_question"
_MAX_CHARS = 1_000
_GOLDS = 4_096


class MathVerify:
    """Compares a gold with answers; one child process, started at the first question."""

    def __init__(self, limits: ChildLimits | None = None) -> None:
        """Take the limits of one comparison.

        Raises:
            UserError: math-verify is not installed.
        """
        if importlib.util.find_spec("math_verify") is None:
            raise UserError(
                "a gold that is no plain number is compared by math-verify, which is not installed: "
                'pip install "agentkit[verifiers]"'
            )
        self._child = BoundedChild(CHILD, limits)
        self._readable: dict[str, bool] = {}

    def reads(self, gold: str) -> bool:
        """Whether math-verify makes an expression of a gold, within the limits."""
        if gold not in self._readable:
            if len(self._readable) >= _GOLDS:
                self._readable.clear()
            self._readable[gold] = len(gold) <= _MAX_CHARS and self._ask({"gold": gold})
        return self._readable[gold]

    def equal(self, gold: str, answer: str) -> bool:
        """Whether an answer equals a gold; an answer that takes too long to compare does not."""
        return len(answer) <= _MAX_CHARS and self._ask({"gold": gold, "answer": answer})

    def close(self) -> None:
        """End the child."""
        self._child.close()

    def _ask(self, question: Mapping[str, str]) -> bool:
        try:
            return bool(self._child.ask(question))
        except TookTooLong:
            return False


@cache
def shared() -> MathVerify:
    """Return the one of this process.

    Raises:
        UserError: math-verify is not installed.
    """
    return MathVerify()
