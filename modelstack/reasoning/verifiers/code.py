"""The reward of a program: its tests, in a process that it cannot reach (`modelstack.sandbox`).

The assertions are executed by a judge in another process and other namespaces, which calls the program over a pipe
and alone writes the verdict. So there is no sentinel that a program could print, no frame or object of the tests
in its memory, and nothing it patches, exits or overrides changes more than its own answers.

Half of the tests are held back from the prompt. Where one of the visible ones fails the reward is 0, else it is
the share of the held-back ones that pass: a program that lists the visible answers gets nothing for it. All or
nothing is `CodeVerifier(partial=False)`.
"""

from __future__ import annotations

import ast
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from modelstack.reasoning.verifiers.code_answers import fenced_code
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, final_part, unscorable
from modelstack.sandbox.limits import Limits
from modelstack.sandbox.running import judge_program, require_sandbox

DEFAULT_LIMITS = Limits(cpu_s=5, wall_s=20.0, memory_bytes=512 << 20, output_bytes=1 << 16)
MAX_CODE_CHARS = 100_000
_VACUOUS = "a test must be Python and use a name of the program"


@dataclass(frozen=True, slots=True)
class ProgramTests:
    """What a program must satisfy.

    Arguments and results cross between two processes as data, so a test about objects of a class of the program
    fails even for the reference. Judge an item's reference first, and drop the item where it does not earn 1.
    """

    tests: tuple[str, ...]
    """Assertions, each runs by itself."""
    names: tuple[str, ...]
    """Globals of the program that they use (`code_answers.tested_names`)."""
    setup: str = ""
    """Code beside the program, in its process: values that the tests are about."""
    helpers: str = ""
    """Code of the judge, before the tests."""


@dataclass(frozen=True, slots=True)
class Split:
    """Tests that the prompt may show, and those it may not."""

    visible: tuple[str, ...]
    held_back: tuple[str, ...]


def split_tests(item: Item[ProgramTests], seed: int = 0) -> Split:
    """Return which tests are shown: a half, rounded down, drawn by the seed and the item's id.

    Whoever writes the prompt and whoever judges call this with the same seed.
    """
    tests = list(item.gold.tests)
    random.Random(f"{seed}/{item.id}").shuffle(tests)
    n_visible = len(tests) // 2
    return Split(tuple(tests[:n_visible]), tuple(tests[n_visible:]))


class CodeVerifier:
    """Runs the program of a completion under its item's tests."""

    def __init__(self, *, partial: bool = True, seed: int = 0, limits: Limits = DEFAULT_LIMITS) -> None:
        """Take how tests are drawn and what a program may use.

        Args:
            partial: Whether the share of held-back tests counts where the visible ones pass; else all must pass.
            seed: Of `split_tests`.
            limits: Of the program and of the judge.

        Raises:
            UserError: This machine does not isolate processes.
        """
        require_sandbox()
        self._partial, self._seed, self._limits = partial, seed, limits

    def score(self, item: Item[ProgramTests], completion: Completion) -> Reward:
        """Return the share of held-back tests that pass, 0 where a visible one fails, None without tests."""
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
        if verdict.reason.startswith("what the tests need does not load"):
            return unscorable(verdict.reason)
        passed, n_visible = verdict.tests_passed, len(split.visible)
        if len(passed) != len(gold.tests) or not all(passed[:n_visible]):
            return Reward(0.0, verdict.reason, code)
        share = sum(passed[n_visible:]) / len(split.held_back)
        return Reward(share if self._partial else float(share == 1.0), verdict.reason, code)


def code_of(text: str, names: Sequence[str] = ()) -> str | None:
    """Return the program of a completion: a fenced block behind the reasoning, else all; None without any."""
    said = final_part(text)
    if said is None or not said.strip():
        return None
    fenced = fenced_code(said, names[0] if names else "")
    return said if fenced is None else fenced


def _uses(test: str, names: Sequence[str]) -> bool:
    """Whether a test is Python, asserts or may raise, and is about the program."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a data set writes
            tree = ast.parse(test)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(tree))
