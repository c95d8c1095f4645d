"""Endless tasks of reasoning-gym: items by name, seed and difficulty, graded strictly (extra `verifiers`).

reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760) has some hundred generators, each with a grader. Many
graders give part of the reward for an answer that merely contains the right one, so a threshold makes the reward
all or nothing. Some graders hand the answer to `eval` or to sympy's parser, which executes it: those get only
answers that are plain data or arithmetic. All grading is done in a child process that can be killed
(`bounded_child`).

An item's gold is the place of its task; the entry is generated again from there, since metadata is not always
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
"""Tasks of reasoning-gym 0.1.25 whose graders execute the answer."""
REFUSED = frozenset({"composite"})
"""Whose parts and their graders are known only when it is made."""
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
    """A generator with its settings."""

    name: str
    seed: int
    size: int = 500
    """How many items there are."""
    level: int | None = None
    """Difficulty from 0, of the generator's curriculum; None: its default settings."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the generator, over the level's; JSON data."""

    def items(self) -> Iterator[Item[GymGold]]:
        """Give the items, the same for the same settings.

        Raises:
            UserError: reasoning-gym is not installed, does not know the name, or refuses the settings.
        """
        dataset = dataset_of(self)
        for index in range(self.size):
            yield Item(f"{self.name}/{self.seed}/{index}", GymGold(self, index), str(dataset[index]["question"]))


@dataclass(frozen=True, slots=True)
class GymGold:
    """Where an entry comes from."""

    task: GymTask
    index: int


class GymVerifier:
    """Grades an answer, marked by `<answer>` or as in mathematics, with the generator's own grader."""

    def __init__(self, *, threshold: float = 1.0, limits: ChildLimits | None = None) -> None:
        """Take from which score on an answer is right.

        Args:
            threshold: Above 0, at most 1; the grader's score below it is 0, from it on 1.
            limits: Of one grading.

        Raises:
            UserError: The threshold is not one, or reasoning-gym is not installed.
        """
        if not 0 < threshold <= 1:
            raise UserError(f"threshold={threshold}: scores reach from 0 to 1, and 0 is for every answer")
        _require()
        self._threshold = threshold
        self._child = BoundedChild("modelstack.reasoning.verifiers.gym_child:grade", limits)
        self._oracle = lru_cache(maxsize=4_096)(self._oracle_score)

    def score(self, item: Item[GymGold], completion: Completion) -> Reward:
        """Return 1 or 0; None where the grader does not accept its own answer."""
        gold = item.gold
        oracle = self._oracle(_place(gold))
        if oracle is None or oracle < self._threshold:
            return unscorable(f"the grader gives its own answer {oracle}")
        answer = answer_of(completion.text)
        if answer is None or not answer or len(answer) > MAX_ANSWER_CHARS:
            return Reward(0.0, "no answer")
        if gold.task.name in EVALUATING and not is_safe_to_evaluate(answer):
            return Reward(0.0, "the grader would execute this answer, which is no plain data", answer[:1_000])
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
    """Return what stands in the last `<answer>` behind the reasoning, else the final answer as in mathematics."""
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
    """Whether Python or sympy may evaluate a text: literals without a call, or arithmetic of known functions.

    No attribute can be named (a dot stands before a digit or nothing), no call of a name that is not a letter or a
    known function, no text inside of a call. What is left takes time and memory at most.
    """
    if not answer.isascii() or re.search(r"\.\s*[A-Za-z_]", answer):
        return False
    if "(" not in answer:
        return _PLAIN.fullmatch(answer) is not None or _ARITHMETIC.fullmatch(answer) is not None
    if _ARITHMETIC.fullmatch(answer) is None:
        return False
    return all(len(name) == 1 or name in _FUNCTIONS for name in _NAME.findall(answer))


def dataset_of(task: GymTask) -> Any:
    """Return reasoning-gym's data set.

    Raises:
        UserError: reasoning-gym is not installed, does not know the name, or refuses the settings.
    """
    _require()
    if task.name in REFUSED:
        raise UserError(f"task {task.name!r} is not taken: its parts bring graders of their own; name the parts")
    gym: Any = importlib.import_module("reasoning_gym")
    factory: Any = importlib.import_module("reasoning_gym.factory")
    if task.name not in factory.DATASETS:
        raise UserError(f"reasoning-gym has no task {task.name!r}; it has {', '.join(sorted(factory.DATASETS))}")
    settings = {**task.config, "seed": task.seed, "size": task.size}
    try:
        if task.level is None:
            return gym.create_dataset(task.name, **settings)
        curriculum = factory.create_curriculum(task.name)
        curriculum.set_global_level(task.level)
        return factory.DATASETS[task.name][0](curriculum.generate_configuration(settings))
    except (TypeError, ValueError, AssertionError) as error:  # their own checks of settings are assertions
        raise UserError(f"task {task.name!r} refuses level {task.level} with {settings}: {error}") from error


def _place(gold: GymGold) -> str:
    task = gold.task
    return json.dumps([task.name, task.seed, task.size, task.level, dict(task.config), gold.index])


def _require() -> None:
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UserError('tasks of reasoning-gym need it installed: pip install "agentkit[verifiers]"')
