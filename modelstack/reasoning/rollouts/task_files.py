"""Tasks of a recipe: training and held-back tasks, with the record of their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from modelstack.errors import UserError
from modelstack.posttrain.data_files import data_file, drawn, refuse_both_sides
from modelstack.posttrain.recipe import TuningFiles
from modelstack.posttrain.stages.record import DataFile, DataManifest
from modelstack.reasoning.episodes.episode import EpisodeWorlds
from modelstack.reasoning.tasks.task import PolicyTask, read_tasks
from modelstack.reasoning.tasks.verifier_choice import VerifierPlan


@dataclass(frozen=True, slots=True)
class PolicyTasks:
    """Tasks of a run."""

    training: tuple[PolicyTask, ...]
    held_back: tuple[PolicyTask, ...]
    """Tasks that are measured before and after training, without canaries."""
    manifest: DataManifest

    def prepared(self, worlds: EpisodeWorlds) -> PolicyTasks:
        """Return the tasks as prepared by the worlds of episodes.

        Raises:
            UserError: A task does not fit the worlds.
        """
        return replace(
            self,
            training=tuple(map(worlds.prepared, self.training)),
            held_back=tuple(map(worlds.prepared, self.held_back)),
        )


def read_policy_tasks(
    data: TuningFiles, verifier: VerifierPlan | None, *, max_validation: int, seed: int
) -> PolicyTasks:
    """Read all files of a recipe.

    Args:
        data: The files.
        verifier: Verifier of all tasks; None: golds are not parsed, because a reward model does not use them.
        max_validation: Maximum number of held-back tasks.
        seed: Seed of the choice of held-back tasks.

    Raises:
        UserError: A file is broken, a gold belongs to another verifier, or a prompt is both trained on and
            measured on.
    """
    training = {file.path: _tasks(file.path, verifier) for file in data.training}
    validation = {path: _tasks(path, verifier) for path in data.validation}
    trained = {task.asked for tasks in training.values() for task in tasks}
    held_back = [task for tasks in validation.values() for task in tasks]
    refuse_both_sides("prompts", trained, ((task.item.id, task.asked) for task in held_back))
    answerable = [task for task in held_back if not task.item.is_canary]
    return PolicyTasks(
        tuple(task for tasks in training.values() for task in tasks),
        tuple(drawn(answerable, max_validation, seed, lambda task: task.item.id)),
        DataManifest(files=(*_described("training", training), *_described("validation", validation))),
    )


def _tasks(path: str, verifier: VerifierPlan | None) -> list[PolicyTask]:
    tasks = list(read_tasks(path))
    if verifier is None:
        return tasks
    try:
        return [task.judged_by(verifier.name) for task in tasks]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _described(
    role: Literal["training", "validation"], files: Mapping[str, Sequence[PolicyTask]]
) -> list[DataFile]:
    return [
        data_file(
            path,
            role,
            kinds=["canary" if task.item.is_canary else "task" for task in tasks],
            licences=[task.license for task in tasks],
        )
        for path, tasks in files.items()
    ]
