"""The two skills (sums of small numbers, and a sentence written as JSON), with their examples and tasks.

The generators of `modelstack tasks` write the tasks; the training and held-back sides of a skill share no prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelstack.data.examples import Example, Message, write_examples
from modelstack.reasoning.tasks.golds import VerifierName
from modelstack.reasoning.tasks.task import PolicyTask, TaskLine, read_tasks
from modelstack.reasoning.tasks.writing.gym_tasks import GymSettings, gym_source
from modelstack.reasoning.tasks.writing.json_tasks import json_source
from modelstack.reasoning.tasks.writing.written import Side, Source, tasks_of, write_tasks
from modelstack.reasoning.verifiers.gym import GymTask, dataset_of

TRAINING, HELD_BACK = "train.jsonl", "held-back.jsonl"
SUMS = GymSettings(
    task="chain_sum",
    config={"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2},
    form="bare",
    shots=1,
)


@dataclass(frozen=True, slots=True)
class Skill:
    """A skill and its verifier."""

    name: str
    verifier: VerifierName

    def source(self, seed: int) -> Source:
        """Return the generator of its tasks."""
        return json_source() if self.verifier == "json" else gym_source(SUMS, seed)

    def answer(self, task: TaskLine) -> str:
        """Return the correct answer to a task."""
        if self.verifier == "json":
            return json.dumps(_constants(task.gold))
        settings = GymTask(SUMS.task, task.gold["seed"], task.gold["size"], None, task.gold["config"])
        return str(dataset_of(settings)[task.gold["index"]]["answer"])


SKILLS = (Skill("sums", "gym"), Skill("json", "json"))


def write_skill(skill: Skill, folder: Path, *, n_training: int, n_held_back: int, seed: int) -> None:
    """Write training examples and held-back tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    write_examples(folder / TRAINING, _examples(skill, n_training, seed))
    write_tasks(folder / HELD_BACK, skill_tasks(skill, "held-back", n_held_back, seed))


def held_back(skill: Skill, folder: Path) -> list[PolicyTask]:
    """Return the held-back tasks, with golds in the form that the skill's verifier accepts."""
    return [task.judged_by(skill.verifier) for task in read_tasks(folder / HELD_BACK)]


def _examples(skill: Skill, n: int, seed: int) -> Iterator[Example]:
    for task in skill_tasks(skill, "train", n, seed):
        yield Example(
            id=task.id,
            source=task.source,
            license=task.license,
            kind="answer",
            messages=task.messages or (Message(role="user", content=task.prompt or ""),),
            reply=skill.answer(task),
        )


def skill_tasks(skill: Skill, side: Side, n: int, seed: int) -> Iterator[TaskLine]:
    """Yield tasks of one side of a skill; all of them are solvable."""
    return tasks_of(skill.source(seed), side, n, seed, canaries=0.0)


def _constants(schema: dict[str, Any]) -> Any:
    """Return the only value that a schema of constants allows."""
    if "const" in schema:
        return schema["const"]
    return {key: _constants(part) for key, part in schema["properties"].items()}
