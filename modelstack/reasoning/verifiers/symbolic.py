"""Compares expressions by math-verify (sympy), in a child process that can be killed.

math-verify limits its time by SIGALRM, which works only in a main thread and does not interrupt a long integer
power. Its timeouts are therefore disabled, and the child's limits apply (`bounded_child`). Text is parsed as
LaTeX, or as arithmetic of digits and operators; names in it never reach an evaluator.

Source: huggingface/Math-Verify 0.9, `math_verify/parser.py`, `grader.py`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cache

from mcp_servers.distribution import install_command
from modelstack.errors import UserError
from modelstack.reasoning.verifiers.bounded_child import BoundedChild, ChildLimits, TookTooLong

CHILD = "modelstack.reasoning.verifiers.symbolic_child:answer_question"
_MAX_CHARS = 1_000
_GOLDS = 4_096


class MathVerify:
    """Comparison of gold and answer in one child process, which starts at the first question."""

    def __init__(self, limits: ChildLimits | None = None) -> None:
        """Store the limits of one comparison.

        Raises:
            UserError: math-verify is not installed.
        """
        if importlib.util.find_spec("math_verify") is None:
            raise UserError(
                f"comparing expressions needs math-verify, which is not installed: {install_command('verifiers')}"
            )
        self._child = BoundedChild(CHILD, limits)
        self._readable: dict[str, bool] = {}

    def reads(self, gold: str) -> bool:
        """Return whether math-verify can read a gold within the limits."""
        if gold not in self._readable:
            if len(self._readable) >= _GOLDS:
                self._readable.clear()
            self._readable[gold] = len(gold) <= _MAX_CHARS and self._ask({"gold": gold})
        return self._readable[gold]

    def equal(self, gold: str, answer: str) -> bool:
        """Return whether an answer equals a gold; False if the comparison takes too long."""
        return len(answer) <= _MAX_CHARS and self._ask({"gold": gold, "answer": answer})

    def close(self) -> None:
        """End the child process."""
        self._child.close()

    def _ask(self, question: Mapping[str, str]) -> bool:
        try:
            return bool(self._child.ask(question))
        except TookTooLong:
            return False


@cache
def shared() -> MathVerify:
    """Return the comparison shared by this process.

    Raises:
        UserError: math-verify is not installed.
    """
    return MathVerify()
