"""The tasks of a recipe: what is trained on, what is held back, and all of it written down."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from modelstack.errors import UserError
from modelstack.files import sha256_of
from modelstack.posttrain.stages.record import DataFile, DataManifest
from modelstack.reasoning.episodes.episode import EpisodeWorlds
from modelstack.reasoning.policy.recipe import PolicyRecipe
from modelstack.reasoning.tasks.task import PolicyTask, read_tasks


@dataclass(frozen=True, slots=True)
class PolicyTasks:
    """What a run reads."""

    training: tuple[PolicyTask, ...]
    held_back: tuple[PolicyTask, ...]
    """That are answered before and after; no canaries among them."""
    manifest: DataManifest

    def prepared(self, worlds: EpisodeWorlds) -> PolicyTasks:
        """Return the tasks as they are asked where episodes take place.

        Raises:
            UserError: One cannot take place there.
        """
        return replace(
            self,
            training=tuple(map(worlds.prepared, self.training)),
            held_back=tuple(map(worlds.prepared, self.held_back)),
        )


def read_policy_data(recipe: PolicyRecipe) -> PolicyTasks:
    """Read all files of a recipe.

    Raises:
        UserError: A file is broken, a gold is of another verifier, or a prompt is on both sides.
    """
    training = {file.path: _tasks(file.path, recipe) for file in recipe.data.training}
    validation = {path: _tasks(path, recipe) for path in recipe.data.validation}
    asked = {task.asked for tasks in training.values() for task in tasks}
    both = [task.item.id for tasks in validation.values() for task in tasks if task.asked in asked]
    if both:
        raise UserError(
            f"{len(both)} prompts are in training and in validation files, the first is {both[0]!r}: what is "
            f"trained on cannot be measured on; take them out of one of them"
        )

    def place(task: PolicyTask) -> bytes:
        return hashlib.sha256(f"{recipe.seed} {task.item.id}".encode()).digest()

    held_back = [task for tasks in validation.values() for task in tasks if not task.item.is_canary]
    return PolicyTasks(
        tuple(task for tasks in training.values() for task in tasks),
        tuple(sorted(held_back, key=place)[: recipe.max_validation]),
        DataManifest(files=(*described_files("training", training), *described_files("validation", validation))),
    )


def _tasks(path: str, recipe: PolicyRecipe) -> list[PolicyTask]:
    tasks = list(read_tasks(path))
    try:
        return [task.judged_by(recipe.data.verifier.name) for task in tasks]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def described_files(
    role: Literal["training", "validation"], files: Mapping[str, Sequence[PolicyTask]]
) -> list[DataFile]:
    """Return what a stage says of files of tasks."""
    return [
        DataFile(
            name=Path(path).name,
            role=role,
            sha256=sha256_of(path),
            n_examples=len(tasks),
            kinds=dict(Counter("canary" if task.item.is_canary else "task" for task in tasks).most_common()),
            licences=dict(Counter(task.license for task in tasks).most_common()),
        )
        for path, tasks in files.items()
    ]
