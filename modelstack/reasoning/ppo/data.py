"""The tasks of a recipe, whose golds are a verifier's or nobody's: a reward model reads replies alone."""

from __future__ import annotations

import hashlib

from modelstack.errors import UserError
from modelstack.posttrain.stages.record import DataManifest
from modelstack.reasoning.policy.data import PolicyTasks, described_files
from modelstack.reasoning.ppo.recipe import PpoRecipe
from modelstack.reasoning.tasks.task import PolicyTask, read_tasks


def read_ppo_data(recipe: PpoRecipe) -> PolicyTasks:
    """Read all files of a recipe.

    Raises:
        UserError: A file is broken, a gold is of another verifier, or a prompt is on both sides.
    """
    training = {file.path: _tasks(file.path, recipe) for file in recipe.data.training}
    validation = {path: _tasks(path, recipe) for path in recipe.data.validation}
    trained = {task.asked for tasks in training.values() for task in tasks}
    held_back = [task for tasks in validation.values() for task in tasks]
    if both := [task.item.id for task in held_back if task.asked in trained]:
        raise UserError(
            f"{len(both)} prompts are in training and in validation files, the first is {both[0]!r}: what is "
            f"trained on cannot be measured on; take them out of one of them"
        )

    def place(task: PolicyTask) -> bytes:
        return hashlib.sha256(f"{recipe.seed} {task.item.id}".encode()).digest()

    return PolicyTasks(
        tuple(task for tasks in training.values() for task in tasks),
        tuple(sorted((task for task in held_back if not task.item.is_canary), key=place)[: recipe.max_validation]),
        DataManifest(files=(*described_files("training", training), *described_files("validation", validation))),
    )


def _tasks(path: str, recipe: PpoRecipe) -> list[PolicyTask]:
    tasks = list(read_tasks(path))
    if recipe.data.verifier is None:
        return tasks
    try:
        return [task.judged_by(recipe.data.verifier.name) for task in tasks]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
