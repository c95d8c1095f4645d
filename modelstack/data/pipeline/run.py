"""Execution of a recipe on this machine: a process pool runs all tasks without a record."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from modelstack.data.pipeline.phases import Phase
from modelstack.data.pipeline.plan import inputs_of, phases_of
from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.errors import UserError
from modelstack.files import replacing

RECIPE_FILE = "recipe.json"
Progress = Callable[[str, int, int], object]
"""Called with a phase's name, its number of finished tasks, and its total number of tasks."""


def run_recipe(
    recipe: DataRecipe, folder: Path, *, n_workers: int = 1, progress: Progress = lambda name, done, total: None
) -> list[Phase]:
    """Run all unfinished tasks of a recipe; return its phases.

    Raises:
        UserError: The folder holds a run of another recipe, or an input does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claim(recipe, folder)
    phases = phases_of(recipe, folder)
    with _pool(recipe, folder, n_workers) as run_all:
        for number, phase in enumerate(phases):
            todo = [task for task in range(phase.n_tasks) if not phase.is_done(task)]
            progress(phase.name, phase.n_tasks - len(todo), phase.n_tasks)
            for n_done, _ in enumerate(run_all(number, phase, todo), phase.n_tasks - len(todo) + 1):
                progress(phase.name, n_done, phase.n_tasks)
    return phases


def claim(recipe: DataRecipe, folder: Path) -> None:
    """Record a recipe in an empty folder, or check that the folder holds the same recipe.

    Raises:
        UserError: The folder holds something else.
    """
    path = folder / RECIPE_FILE
    mine = {
        "sha256": recipe.fingerprint,
        "inputs": inputs_of(recipe),
        "recipe": recipe.model_dump(mode="json"),
    }
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["sha256"] != mine["sha256"]:
            raise UserError(
                f"{folder} holds the run of another recipe ({path.name} in it); name another --out, or remove it"
            )
        if found["inputs"] != mine["inputs"]:
            # Finished tasks belong to the files that had their numbers when the run started.
            known = {name for name, _ in found["inputs"]}
            new = next((name for name, _ in mine["inputs"] if name not in known), "none new")
            raise UserError(
                f"the input files differ from those when {folder} was started (first new file: {new}); "
                f"name another --out; `earlier` finds near-duplicates of the earlier run"
            )
        return
    if any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no {path.name}; name a new folder with --out")
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(mine, indent=1) + "\n", encoding="utf-8")


RunAll = Callable[[int, Phase, Sequence[int]], Iterator[None]]


@contextmanager
def _pool(recipe: DataRecipe, folder: Path, n_workers: int) -> Iterator[RunAll]:
    """Yield a function that runs tasks of a phase, itself yielding after each finished task."""
    if n_workers <= 1:
        yield _one_after_another
        return
    # A fresh interpreter shares no loaded models and inherits no threads.
    context = multiprocessing.get_context("spawn")
    earlier_children = set(multiprocessing.active_children())
    with ProcessPoolExecutor(n_workers, context, _begin_worker, (recipe, folder)) as pool:

        def side_by_side(number: int, phase: Phase, todo: Sequence[int]) -> Iterator[None]:
            waiting: set[Future[None]] = {pool.submit(_run_task, number, task) for task in todo}
            try:
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                        yield
            finally:
                for future in waiting:
                    future.cancel()

        try:
            yield side_by_side
        except BaseException as error:
            # Running tasks are terminated; they run again on resume.
            for process in set(multiprocessing.active_children()) - earlier_children:
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    f"a worker process of {folder} was killed, perhaps for lack of memory; "
                    f"run the same command to resume, with fewer --workers if it happens again"
                ) from error
            raise


def _one_after_another(number: int, phase: Phase, todo: Sequence[int]) -> Iterator[None]:
    for task in todo:
        phase.run(task)
        yield


_worker_phases: list[Phase] = []
"""Phases of this worker process, built once because steps may load models."""


def _begin_worker(recipe: DataRecipe, folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides
    _worker_phases[:] = phases_of(recipe, folder)


def _run_task(number: int, task: int) -> None:
    _worker_phases[number].run(task)
