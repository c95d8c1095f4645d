"""The tasks of a data run on other machines: Ray or Slurm, by datatrove's executors.

A task does the same everywhere: it reads files of the run's folder, writes its own files whole, its record last.
The folder and the inputs must be seen by all machines under the same paths. On Ray the phases run one after the
other and this process waits; to Slurm they are submitted as jobs, each of which waits for the one before.

    modelstack data run recipe.toml --out FOLDER --on ray --workers 2
    modelstack data run recipe.toml --out FOLDER --on slurm --with time=04:00:00 --with partition=cpu
"""

from __future__ import annotations

import inspect
import os
import re
import select
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_servers.distribution import install_command
from modelstack.data.pipeline.phases import Phase
from modelstack.data.pipeline.plan import phases_of
from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.data.pipeline.run import claim
from modelstack.errors import UserError
from modelstack.ray_cluster import ray_cluster

EXECUTORS = {"ray": "RayPipelineExecutor", "slurm": "SlurmPipelineExecutor"}
"""Classes of datatrove by the names of `modelstack data run --on`."""
OURS = {"pipeline", "tasks", "logging_dir", "depends", "skip_completed"}
"""Parameters of an executor that follow from the recipe and the folder."""
PARENT_POLL_S = 1.0
"""Seconds between two looks of a task's watcher at the Ray worker."""


def run_on(name: str, recipe: DataRecipe, folder: Path, options: Sequence[str]) -> bool:
    """Run or submit the open tasks of a run; return whether all are done.

    Args:
        name: A key of `EXECUTORS`.
        recipe: Inputs and steps.
        folder: Folder of the run; logs are in its `logs`.
        options: `key=value` for datatrove's executor (`workers`; `time`, `partition`, `mem_per_cpu_gb`, ...).

    Raises:
        UserError: The name or an option is not known, a package is not installed, the folder holds the run of
            another recipe, an input is not there, or tasks failed.
    """
    if name not in EXECUTORS:
        raise UserError(f"--on {name!r} is not known; known: local, {', '.join(EXECUTORS)}")
    chosen = _parsed(options)
    executor = _executor(name)
    _check(name, executor, chosen)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    claim(recipe, folder)
    if name == "slurm":
        return _submitted(executor, recipe, folder, chosen)
    with ray_cluster(chosen.get("workers")):
        _run_by_phases(executor, recipe, folder, chosen)
    return True


def _parsed(options: Sequence[str]) -> dict[str, Any]:
    """Return options with numbers as such."""
    parsed: dict[str, Any] = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator or not key:
            raise UserError(f"--with {option!r}: give key=value, for example --with workers=4")
        number = re.fullmatch(r"\d+(\.\d+)?", value, re.ASCII)
        parsed[key] = value if number is None else float(value) if number[1] else int(value)
    return parsed


def _check(name: str, executor: Any, chosen: dict[str, Any]) -> None:
    """Refuse options that the executor does not know, and the lack of those that it needs."""
    known = {key: each for key, each in inspect.signature(executor).parameters.items() if key not in OURS}
    if unknown := chosen.keys() - known:
        raise UserError(f"--with {min(unknown)!r} is no option of {name}; its options: {', '.join(sorted(known))}")
    needed = {key for key, each in known.items() if each.default is each.empty}
    if missing := needed - chosen.keys():
        raise UserError(f"--on {name} needs {' '.join(f'--with {key}=...' for key in sorted(missing))}")
    if name == "slurm" and shutil.which("sbatch") is None:
        raise UserError("--on slurm submits by sbatch, which is not on this machine; run it where Slurm is")


def _executor(name: str) -> Any:
    try:
        import datatrove.executor  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise UserError(f"--on {name} needs datatrove's executors: {install_command('ray')}") from error
    return getattr(datatrove.executor, EXECUTORS[name])


def _run_by_phases(executor: Any, recipe: DataRecipe, folder: Path, options: dict[str, Any]) -> None:
    """Run one phase after the other: an executor that `depends` on one with failed tasks would wait for ever."""
    for number, phase in enumerate(phases_of(recipe, folder)):
        if not _open_tasks(phase):
            continue
        tasks = RayTasks(_phase_tasks(recipe, folder, number, phase))
        _made(executor, tasks, tasks.of_phase, folder / "logs" / phase.name, options).run()
        if failed := _open_tasks(phase):
            raise UserError(
                f"{len(failed)} of {phase.n_tasks} tasks of {phase.name} did not end; their logs are in "
                f"{folder / 'logs' / phase.name}; run the same command to resume with them"
            )


def _submitted(executor: Any, recipe: DataRecipe, folder: Path, options: dict[str, Any]) -> bool:
    """Submit the phases with open tasks as a chain of jobs; return whether there are none."""
    last = None
    for number, phase in enumerate(phases_of(recipe, folder)):
        if _open_tasks(phase):
            tasks = _phase_tasks(recipe, folder, number, phase)
            last = _made(executor, tasks, tasks, folder / "logs" / phase.name, {**options, "depends": last})
    if last is not None:
        last.run()
    return last is None


def _open_tasks(phase: Phase) -> tuple[int, ...]:
    return tuple(task for task in range(phase.n_tasks) if not phase.is_done(task))


def _phase_tasks(recipe: DataRecipe, folder: Path, number: int, phase: Phase) -> PhaseTasks:
    return PhaseTasks(recipe.model_dump_json(), str(folder), os.getcwd(), number, _open_tasks(phase))


def _made(executor: Any, step: Any, tasks: PhaseTasks, logs: Path, options: dict[str, Any]) -> Any:
    """Return an executor whose ranks are the open tasks; a task's own record says whether it is done."""
    return executor(
        pipeline=[step], tasks=len(tasks.numbers), logging_dir=str(logs), skip_completed=False, **options
    )


@dataclass(frozen=True, slots=True)
class PhaseTasks:
    """Open tasks of a phase as a step of datatrove's pipelines: rank n does the n-th."""

    recipe_json: str
    folder: str
    working_folder: str
    """Folder that relative paths of inputs start from."""
    phase: int
    numbers: tuple[int, ...]

    def __call__(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Do the task of a rank."""
        os.chdir(self.working_folder)
        phases = phases_of(DataRecipe.model_validate_json(self.recipe_json), Path(self.folder))
        phases[self.phase].run(self.numbers[rank])


@dataclass(frozen=True, slots=True)
class RayTasks:
    """Tasks in the process that datatrove's pool starts in a Ray worker for each rank."""

    of_phase: PhaseTasks

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the tasks so that the worker that reads them starts its pools safely."""
        return _in_ray_worker, (self.of_phase,)

    def __call__(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Do the task of a rank."""
        with _one_fate_with_parent():
            self.of_phase(data, rank, world_size)


def _in_ray_worker(of_phase: PhaseTasks) -> RayTasks:
    """Return the tasks, and let pools of this process start new interpreters instead of forks.

    datatrove creates its pool in a Ray actor, which has threads of Ray's. A process that is forked there may wait
    for ever for a lock that such a thread held. A new interpreter would import the main module of its parent: Ray,
    which takes 0.5 s and which no task needs.
    """
    import multiprocess  # pyright: ignore[reportMissingImports]

    multiprocess.set_start_method("spawn", force=True)  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules["__main__"].__file__ = None
    return RayTasks(of_phase)


@contextmanager
def _one_fate_with_parent() -> Iterator[None]:
    """Kill the parent when this process is killed, and this process when its parent is.

    datatrove 0.10.1 runs a rank in a `multiprocessing.Pool` of a Ray actor. The pool waits for ever for a process
    that was killed, as the system does when memory is short, and outlives an actor that was killed. Ray sees only
    the actor: when that is gone, datatrove runs the rank again. A process that is killed before it comes here is
    not noticed; datatrove's option `time` (seconds) bounds the wait.
    """
    worker, parent = os.getpid(), os.getppid()
    read_end, write_end = os.pipe()
    watcher = os.fork()
    if watcher == 0:
        try:
            os.close(write_end)
            _watch(read_end, worker, parent)
        finally:
            os._exit(0)
    os.close(read_end)
    try:
        yield
    finally:
        os.write(write_end, b".")
        os.close(write_end)
        os.waitpid(watcher, 0)


def _watch(read_end: int, worker: int, parent: int) -> None:
    """Wait until the worker has ended or one of the two was killed, then kill the other."""
    while not select.select([read_end], [], [], PARENT_POLL_S)[0]:
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            os.kill(worker, signal.SIGKILL)
            return
    if os.read(read_end, 1) == b"":
        os.kill(parent, signal.SIGKILL)
