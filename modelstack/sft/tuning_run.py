"""What every training of a model that is there already has around its loss: folder, log, guard, checkpoints, loop.

Fine-tuning, preferences and reinforcement differ in what they load, in the passes of a step and in what they leave
behind; the rest is here once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from modelstack.data.batches import Loader
from modelstack.runs.folder import RunFolder
from modelstack.runs.progress import Display
from modelstack.sft.loader import SftLoaderConfig
from modelstack.sft.tuning import TuningFiles, TuningRecipe
from modelstack.stability.agreement import Ranks
from modelstack.stability.fault_injection import inject
from modelstack.stability.faults import parse
from modelstack.stability.guard import Guard
from modelstack.stability.memory_checkpoints import KEEP, open_memory
from modelstack.stability.run_checkpoints import LocalStore
from modelstack.stability.run_events import EVENTS_FILE, EventLog
from modelstack.stability.supervisor import GuardedRun, SupervisorConfig
from modelstack.train.allocator import keep_freed_memory
from modelstack.train.loop import Hook, LoopConfig, Run
from modelstack.train.metrics import JsonLines, Metrics
from modelstack.train.step import TrainState

WINDOW_ROWS = 256
"""About so many are packed, or sorted by length, together."""


@contextmanager
def held_folder(recipe: TuningRecipe, path: Path) -> Iterator[RunFolder]:
    """Hold the folder of a run against a second process, with the recipe's threads.

    Raises:
        UserError: Another process holds it.
    """
    keep_freed_memory()
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    folder = RunFolder(path)
    with folder.held():
        yield folder


def logged(folder: RunFolder, display: Display) -> tuple[Metrics, Callable[[str], None]]:
    """Return the run's metrics, and what is to be told of everything that is not ordinary."""
    metrics = Metrics([JsonLines(folder.metrics)])

    def on_event(text: str) -> None:
        metrics.event(text)
        display.say(text)

    return metrics, on_event


def steps_of(recipe: TuningRecipe, n_rows: int) -> int:
    """Return how many steps a recipe takes over an epoch of so many rows."""
    return recipe.steps or max(1, math.ceil(recipe.epochs * n_rows / recipe.rows))


def row_order(
    files: TuningFiles, *, rows: int, seed: int, row_tokens: int, layout: Literal["packed", "padded"]
) -> SftLoaderConfig:
    """Return the order of rows: by a seed, those of a step together, the files' shares kept."""
    shares = {file.path: file.share for file in files.training if file.share is not None}
    return SftLoaderConfig(
        row_tokens=row_tokens,
        layout=layout,
        window_rows=rows * math.ceil(WINDOW_ROWS / rows),
        group_rows=rows,
        seed=seed,
        shares=shares or None,
    )


def guarded_run(
    recipe: TuningRecipe,
    state: TrainState,
    loader: Loader,
    n_steps: int,
    factor: Callable[[int], float],
    folder: RunFolder,
    on_event: Callable[[str], None],
    hooks: Mapping[str, Hook],
) -> tuple[Run, GuardedRun]:
    """Return a run at its beginning, and its supervisor: guard, checkpoints, rollback, the recipe's faults.

    Args:
        recipe: What is done.
        state: What is trained, with the passes of a step.
        loader: What it reads.
        n_steps: Until the end.
        factor: On the learning rate, by step.
        folder: Where it is kept.
        on_event: Is told of everything that is not ordinary.
        hooks: What watches it, in the order of a step; behind the log of steps and checkpoints.

    Raises:
        UserError: Parts do not fit together.
    """
    log = EventLog(folder.path / EVENTS_FILE)
    supervisor = GuardedRun(
        Guard(recipe.guard),
        log.watching(LocalStore(folder.checkpoints, recipe.checkpoints.keep)),
        SupervisorConfig(save_every=recipe.checkpoints.every),
        on_event,
        memory=open_memory(
            folder.checkpoints,
            recipe.checkpoints.memory_every,
            Ranks(None),
            lambda path: log.watching(LocalStore(path, KEEP)),
            on_event,
        ),
    )
    config = LoopConfig(n_steps=n_steps, micro_batches=recipe.micro_batches, max_norm=recipe.max_norm)
    run = Run(config, state, loader, factor, supervisor, {"events": log, **hooks})
    if recipe.faults:
        inject(run, parse(recipe.faults, recipe.seed), folder.path, 0)
    return run, supervisor
