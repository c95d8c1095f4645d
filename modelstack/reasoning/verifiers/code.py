"""Reward of a program by its tests, which run in a process that the program cannot reach (`modelstack.sandbox`).

A judge in another process and other namespaces executes the assertions. It calls the program over a pipe and
alone writes the verdict. There is therefore no sentinel that a program could print, and no frame or object of
the tests in its memory. Patching, exiting or overriding affects only the program's own answers.

Half of the tests are held back from the prompt. If a visible test fails the reward is 0; otherwise it is the
share of held-back tests that pass. A program that only lists the visible answers therefore gets 0.
`CodeVerifier(partial=False)` requires all tests to pass.
"""

from __future__ import annotations

import ast
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from modelstack.reasoning.verifiers.code_answers import fenced_code
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, final_part, unscorable
from modelstack.sandbox.child import HELPERS_FAILED
from modelstack.sandbox.limits import Limits
from modelstack.sandbox.running import judge_program, require_sandbox

DEFAULT_LIMITS = Limits(cpu_s=5, wall_s=20.0, memory_bytes=512 << 20, output_bytes=1 << 16)
MAX_CODE_CHARS = 100_000
_VACUOUS = "a test must be Python and use a name of the program"


@dataclass(frozen=True, slots=True)
class ProgramTests:
    """Tests of a program.

    Arguments and results are passed between processes as data, so a test about objects of a class of the program
    fails even for the reference solution. Judge an item's reference first, and drop the item if its reward is
    below 1.
    """

    tests: tuple[str, ...]
    """Assertions; each is executed independently."""
    names: tuple[str, ...]
    """Globals of the program that the tests use (`code_answers.tested_names`)."""
    setup: str = ""
    """Code executed in the program's process, such as values that the tests refer to."""
    helpers: str = ""
    """Code executed by the judge before the tests."""


@dataclass(frozen=True, slots=True)
class Split:
    """Visible tests, which the prompt may show, and held-back tests."""

    visible: tuple[str, ...]
    held_back: tuple[str, ...]


def split_tests(item: Item[ProgramTests], seed: int = 0) -> Split:
    """Return which tests are visible: half of them, rounded down, drawn by the seed and the item's id.

    The writer of the prompt and the verifier must use the same seed.
    """
    tests = list(item.gold.tests)
    random.Random(f"{seed}/{item.id}").shuffle(tests)
    n_visible = len(tests) // 2
    return Split(tuple(tests[:n_visible]), tuple(tests[n_visible:]))


class CodeVerifier:
    """Verifier that runs the program of a completion under its item's tests."""

    def __init__(self, *, partial: bool = True, seed: int = 0, limits: Limits = DEFAULT_LIMITS) -> None:
        """Store the settings.

        Args:
            partial: Whether the reward is the share of passed held-back tests; otherwise all tests must pass.
            seed: Seed of `split_tests`.
            limits: Limits of the program and of the judge.

        Raises:
            UserError: This machine cannot isolate processes.
        """
        require_sandbox()
        self._partial, self._seed, self._limits = partial, seed, limits

    def score(self, item: Item[ProgramTests], completion: Completion) -> Reward:
        """Return the share of held-back tests that pass; 0 if a visible one fails; None for unusable tests."""
        gold = item.gold
        if not gold.tests or not all(_uses(test, gold.names) for test in gold.tests):
            return unscorable("no tests" if not gold.tests else _VACUOUS)
        code = code_of(completion.text, gold.names)
        if code is None or len(code) > MAX_CODE_CHARS:
            return Reward(0.0, "no program", code and code[:MAX_CODE_CHARS])
        split = split_tests(item, self._seed)
        sources = [code, gold.setup] if gold.setup else [code]
        verdict = judge_program(
            sources,
            [*split.visible, *split.held_back],
            gold.names,
            helpers=gold.helpers,
            limits=self._limits,
            every_test=True,
        )
        if verdict.reason.startswith(HELPERS_FAILED):
            return unscorable(verdict.reason)
        passed, n_visible = verdict.tests_passed, len(split.visible)
        if len(passed) != len(gold.tests) or not all(passed[:n_visible]):
            return Reward(0.0, verdict.reason, code)
        share = sum(passed[n_visible:]) / len(split.held_back)
        return Reward(share if self._partial else float(share == 1.0), verdict.reason, code)


def code_of(text: str, names: Sequence[str] = ()) -> str | None:
    """Return a completion's program: a fenced block after the reasoning, else all of it; None if empty."""
    said = final_part(text)
    if said is None or not said.strip():
        return None
    fenced = fenced_code(said, names[0] if names else "")
    return said if fenced is None else fenced


def _uses(test: str, names: Sequence[str]) -> bool:
    """Return whether a test is valid Python and uses a name of the program."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # data sets contain code that triggers warnings
            tree = ast.parse(test)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(tree))
