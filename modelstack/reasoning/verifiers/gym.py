"""Tasks of reasoning-gym: items by name, seed and difficulty, graded strictly (extra `verifiers`).

reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760) has about a hundred generators, each with a grader.
Many graders give a partial reward to an answer that merely contains the correct one, so a threshold makes the
reward binary. Some graders pass the answer to `eval` or to sympy's parser, which executes it; they get only
answers that are plain data or arithmetic. Grading runs in a child process that can be killed (`bounded_child`).

An item's gold is the location of its entry; the entry is generated again from it, since metadata is not always
JSON.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from mcp_servers.distribution import install_command
from modelstack.errors import UserError
from modelstack.reasoning.verifiers.bounded_child import BoundedChild, ChildLimits, TookTooLong
from modelstack.reasoning.verifiers.math_answers import final_answer
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, final_part, unscorable

EVALUATING = frozenset(
    {
        "binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication",
        "puzzle24", "simple_integration", "spiral_matrix", "string_insertion",
    }
)  # fmt: skip
"""Tasks of reasoning-gym 0.1.25 with graders that execute the answer."""
REFUSED = frozenset({"composite"})
"""Rejected tasks: their parts, and so their graders, are known only after creation."""
MAX_ANSWER_CHARS = 10_000
_ANSWER = re.compile(r"<answer>|</answer>")
_FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "exp", "log", "ln", "sqrt", "asin", "acos", "atan", "sinh", "cosh", "tanh", "pi"}
)
_PLAIN = re.compile(r"[\[\]A-Za-z0-9_'\", \n.#*+-]*")
_ARITHMETIC = re.compile(r"[A-Za-z0-9+\-*/^(). \n]*")
_NAME = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, slots=True)
class GymTask:
    """Generator with its settings."""

    name: str
    seed: int
    size: int = 500
    """Number of items."""
    level: int | None = None
    """Difficulty from 0 on the generator's curriculum; None: the generator's default settings."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the generator as JSON data, which override those of the level."""

    def items(self) -> Iterator[Item[GymGold]]:
        """Yield the items; equal settings give equal items.

        Raises:
            UserError: reasoning-gym is not installed, or rejects the name or the settings.
        """
        dataset = dataset_of(self)
        for index in range(self.size):
            yield Item(f"{self.name}/{self.seed}/{index}", GymGold(self, index), str(dataset[index]["question"]))


@dataclass(frozen=True, slots=True)
class GymGold:
    """Location of an entry."""

    task: GymTask
    index: int


class GymVerifier:
    """Verifier that grades a marked answer (`<answer>`, or as in mathematics) by the generator's grader."""

    def __init__(self, *, threshold: float = 1.0, limits: ChildLimits | None = None) -> None:
        """Store the threshold of a correct answer.

        Args:
            threshold: Minimum score of a correct answer, above 0 and at most 1.
            limits: Limits of one grading; None: the defaults.

        Raises:
            UserError: The threshold is out of range, or reasoning-gym is not installed.
        """
        if not 0 < threshold <= 1:
            raise UserError(
                f"threshold is {threshold}; it must be above 0 and at most 1, as every answer scores at least 0"
            )
        _require()
        self._threshold = threshold
        self._child = BoundedChild("modelstack.reasoning.verifiers.gym_child:grade", limits)
        self._oracle = lru_cache(maxsize=4_096)(self._oracle_score)

    def score(self, item: Item[GymGold], completion: Completion) -> Reward:
        """Return reward 1 or 0; None if the grader rejects its own answer."""
        gold = item.gold
        oracle = self._oracle(_place(gold))
        if oracle is None or oracle < self._threshold:
            return unscorable(f"the grader scores its own answer {oracle}")
        answer = answer_of(completion.text)
        if answer is None or not answer or len(answer) > MAX_ANSWER_CHARS:
            return Reward(0.0, "no answer")
        if gold.task.name in EVALUATING and not is_safe_to_evaluate(answer):
            return Reward(0.0, "the grader would execute this answer, which is not plain data", answer[:1_000])
        score = self._grade(_place(gold), answer)
        if score is None:
            return Reward(0.0, "grading took too long", answer[:1_000])
        return Reward(float(score >= self._threshold), f"graded {score:g}", answer[:1_000], {"graded": score})

    def close(self) -> None:
        """End the child process."""
        self._child.close()

    def _oracle_score(self, place: str) -> float | None:
        return self._grade(place, None)

    def _grade(self, place: str, answer: str | None) -> float | None:
        try:
            return float(self._child.ask({"place": place, "answer": answer}))
        except TookTooLong:
            return None


def answer_of(text: str) -> str | None:
    """Return the text in the last `<answer>` after the reasoning, else the final answer as in mathematics."""
    said = final_part(text)
    if said is None:
        return None
    marks = list(_ANSWER.finditer(said))
    for opened, closed in zip(reversed(marks[:-1]), reversed(marks), strict=False):
        if opened.group() == "<answer>" and closed.group() == "</answer>":
            return said[opened.end() : closed.start()].strip()
    found = final_answer(said)
    return None if found is None else found.text


def is_safe_to_evaluate(answer: str) -> bool:
    """Return whether Python or sympy may evaluate a text: literals, or arithmetic of known functions.

    The rules exclude attributes (a dot is followed only by a digit or nothing), calls of names other than a
    single letter or a known function, and text inside a call. The remaining risk is time and memory.
    """
    if not answer.isascii() or re.search(r"\.\s*[A-Za-z_]", answer):
        return False
    if "(" not in answer:
        return _PLAIN.fullmatch(answer) is not None or _ARITHMETIC.fullmatch(answer) is not None
    if _ARITHMETIC.fullmatch(answer) is None:
        return False
    return all(len(name) == 1 or name in _FUNCTIONS for name in _NAME.findall(answer))


def dataset_of(task: GymTask) -> Any:
    """Return the data set of reasoning-gym.

    Raises:
        UserError: reasoning-gym is not installed, or rejects the name or the settings.
    """
    _require()
    if task.name in REFUSED:
        raise UserError(
            f"task {task.name!r} is not supported: its parts have their own graders. Name the parts instead"
        )
    gym: Any = importlib.import_module("reasoning_gym")
    factory: Any = importlib.import_module("reasoning_gym.factory")
    if task.name not in factory.DATASETS:
        raise UserError(
            f"reasoning-gym has no task {task.name!r}; known tasks: {', '.join(sorted(factory.DATASETS))}"
        )
    settings = {**task.config, "seed": task.seed, "size": task.size}
    try:
        if task.level is None:
            return gym.create_dataset(task.name, **settings)
        curriculum = factory.create_curriculum(task.name)
        curriculum.set_global_level(task.level)
        return factory.DATASETS[task.name][0](curriculum.generate_configuration(settings))
    except (TypeError, ValueError, AssertionError) as error:  # its own checks of settings are assertions
        raise UserError(f"task {task.name!r} refuses level {task.level} with {settings}: {error}") from error


def _place(gold: GymGold) -> str:
    task = gold.task
    return json.dumps([task.name, task.seed, task.size, task.level, dict(task.config), gold.index])


def _require() -> None:
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UserError(f"these tasks need reasoning-gym: {install_command('verifiers')}")
