"""A run's tasks on datatrove's executors: processes, Slurm or Ray; what a task does is the same everywhere.

Each phase becomes an executor with the phase's number of tasks, which waits for the one before. A task that was
done is passed over, by our record and by datatrove's. The folder must be seen by all machines.

    modelstack data run recipe.toml --out FOLDER --on slurm --with time=04:00:00 --with partition=cpu
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from modelstack.data.pipeline.plan import phases_of
from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.data.pipeline.run import claim
from modelstack.errors import UserError

EXECUTORS = {"processes": "LocalPipelineExecutor", "slurm": "SlurmPipelineExecutor", "ray": "RayPipelineExecutor"}
"""datatrove's, by the names of `modelstack data run --on`."""


def run_on(name: str, recipe: DataRecipe, folder: Path, options: Sequence[str]) -> bool:
    """Run, or submit, the tasks that are left; return whether all are done when this returns.

    Args:
        name: A key of `EXECUTORS`.
        recipe: What is done.
        folder: Of the run.
        options: `key=value` for the executor.

    Raises:
        UserError: The name is not known, an option is not `key=value` or not the executor's, or as `executors`.
    """
    if name not in EXECUTORS:
        raise UserError(f"--on {name!r} is not known; known: {', '.join(EXECUTORS)}")
    chosen = _parsed(options)
    try:
        import datatrove.executor  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise UserError(f"{error}; `pip install datatrove` brings the executors") from error
    executor = getattr(datatrove.executor, EXECUTORS[name])
    known = inspect.signature(executor).parameters.keys() - {"pipeline", "tasks", "logging_dir", "depends"}
    if unknown := chosen.keys() - known:
        raise UserError(f"--with {min(unknown)!r} is no option of {name}; its options: {', '.join(sorted(known))}")
    try:
        executors(recipe, folder, executor, **chosen)[-1].run()
    except ImportError as error:  # of ray, which datatrove looks for here
        raise UserError(str(error)) from error
    return all(phase.is_done(task) for phase in phases_of(recipe, folder) for task in range(phase.n_tasks))


def _parsed(options: Sequence[str]) -> dict[str, Any]:
    """Return options with whole numbers as such."""
    parsed: dict[str, Any] = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator or not key:
            raise UserError(f"--with {option!r}: give key=value, for example --with workers=4")
        parsed[key] = int(value) if value.isdecimal() else value
    return parsed


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
        raise UserError(f"{folder}: all tasks are done; `modelstack data run` writes the report")
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
