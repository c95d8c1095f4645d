"""A run's tasks on datatrove's executors: processes, Slurm or Ray; what a task does is the same everywhere.

Each phase becomes an executor with the phase's number of tasks, which waits for the one before. A task that was
done is passed over, by our record and by datatrove's. The folder must be seen by all machines.

    from datatrove.executor import SlurmPipelineExecutor
    from modelstack.data.pipeline.scale_out import executors

    last = executors(recipe, folder, SlurmPipelineExecutor, time="04:00:00", partition="cpu")[-1]
    last.run()    # submits the ones before it, too
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modelstack.data.pipeline.plan import phases_of
from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.data.pipeline.run import claim
from modelstack.errors import UserError


def executors(recipe: DataRecipe, folder: Path, executor: Callable[..., Any], **options: Any) -> list[Any]:
    """Return an executor for each phase that has tasks left, each waiting for the one before.

    Args:
        recipe: What is done.
        folder: Of the run; its logs are below `logs`.
        executor: datatrove's LocalPipelineExecutor, SlurmPipelineExecutor or RayPipelineExecutor.
        options: For it (`workers`; `time`, `partition`, `mem_per_cpu_gb`, ...).

    Raises:
        UserError: the folder holds the run of another recipe, an input is not there, or nothing is left to do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claim(recipe, folder)
    made: list[Any] = []
    for number, phase in enumerate(phases_of(recipe, folder)):
        if all(phase.is_done(task) for task in range(phase.n_tasks)):
            continue
        made.append(
            executor(
                pipeline=[_phase_step(recipe, folder, number)],
                tasks=phase.n_tasks,
                logging_dir=str(folder / "logs" / phase.name),
                depends=made[-1] if made else None,
                **options,
            )
        )
    if not made:
        raise UserError(f"{folder}: all tasks are done; `modelstack data` writes the report")
    return made


def _phase_step(recipe: DataRecipe, folder: Path, number: int) -> Any:
    try:
        from datatrove.pipeline.base import PipelineStep  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise UserError(f"{error}; `pip install datatrove` brings the executors") from error

    class PhaseStep(PipelineStep):
        """The tasks of one phase, as datatrove's ranks."""

        name = f"modelstack phase {number}"
        type = "modelstack"

        def __init__(self, recipe_json: str, folder: str, number: int) -> None:
            super().__init__()
            self.recipe_json, self.folder, self.number = recipe_json, folder, number

        def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
            phase = phases_of(DataRecipe.model_validate_json(self.recipe_json), Path(self.folder))[self.number]
            for task in range(rank, phase.n_tasks, world_size):
                phase.run(task)
            yield from ()

    return PhaseStep(recipe.model_dump_json(), str(folder), number)
