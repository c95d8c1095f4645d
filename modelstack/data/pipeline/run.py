"""Doing a recipe's work on this machine: a pool of processes, a bar for each phase, whatever is missing."""

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
"""Told of a phase's name, its tasks that are done, and how many there are."""


def run_recipe(
    recipe: DataRecipe, folder: Path, *, n_workers: int = 1, progress: Progress = lambda name, done, total: None
) -> list[Phase]:
    """Do all tasks of a recipe that are not done yet; return its phases.

    Raises:
        UserError: the folder holds the run of another recipe, or an input is not there.
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
    """Make a folder that of a recipe's run, or find that it is.

    Raises:
        UserError: it holds something else.
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
            # Tasks that are done were of other files than those that now have their numbers.
            known = {name for name, _ in found["inputs"]}
            new = next((name for name, _ in mine["inputs"] if name not in known), "none new")
            raise UserError(
                f"the files of the inputs are others than when {folder} was begun (first new one: {new}); "
                f"name another --out; near-duplicates of the run before are found with `earlier`"
            )
        return
    if any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no {path.name}; name a new folder with --out")
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(mine, indent=1) + "\n", encoding="utf-8")


RunAll = Callable[[int, Phase, Sequence[int]], Iterator[None]]


@contextmanager
def _pool(recipe: DataRecipe, folder: Path, n_workers: int) -> Iterator[RunAll]:
    """Give a function that does tasks of a phase, and yields with each that is done."""
    if n_workers <= 1:
        yield _one_after_another
        return
    # A fresh interpreter: what a step loads is neither shared with nor inherited from this process's threads.
    context = multiprocessing.get_context("spawn")
    of_others = set(multiprocessing.active_children())
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
            # What is being done is not waited for: cut off, it is done again when the run goes on.
            for process in set(multiprocessing.active_children()) - of_others:
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    f"a process that worked on {folder} was killed, perhaps for want of memory; "
                    f"the same command goes on, with fewer --workers if it happens again"
                ) from error
            raise


def _one_after_another(number: int, phase: Phase, todo: Sequence[int]) -> Iterator[None]:
    for task in todo:
        phase.run(task)
        yield


_worker_phases: list[Phase] = []
"""Of this worker process; built once, since steps may load models."""


def _begin_worker(recipe: DataRecipe, folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    _worker_phases[:] = phases_of(recipe, folder)


def _run_task(number: int, task: int) -> None:
    _worker_phases[number].run(task)
