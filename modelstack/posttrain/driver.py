"""What every training of a model that is there already has around its loss: folder, log, guard, checkpoints, loop.

Fine-tuning, preferences and reinforcement differ in what they load, in the passes of a step and in what they leave
behind; the rest is here once, and how they end in `sealing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from modelstack.data.batches import Loader
from modelstack.posttrain.recipe import LAYOUT, TuningRecipe, TuningResolved
from modelstack.posttrain.stages.stage import Stage, is_stage, open_stage
from modelstack.run_folder import Places, RunFolder, claim
from modelstack.stability.agreement import Ranks
from modelstack.stability.fault_injection import inject
from modelstack.stability.faults import parse
from modelstack.stability.guard import Guard
from modelstack.stability.memory_checkpoints import CHECKSUM, KEEP, open_memory
from modelstack.stability.run_checkpoints import LocalStore
from modelstack.stability.run_events import EVENTS_FILE, EventLog
from modelstack.stability.supervisor import GuardedRun, SupervisorConfig
from modelstack.train.loop import Hook, LoopConfig, Run, train
from modelstack.train.metrics import JsonLines, Metrics
from modelstack.train.process import set_up_process
from modelstack.train.run.progress import Display
from modelstack.train.run.stopping import stop_asked
from modelstack.train.step import TrainState


@dataclass(frozen=True, slots=True)
class TuningPlace:
    """Where a training works: the folder that it holds, what is recorded of it, and what it is shown on."""

    folder: RunFolder
    display: Display
    metrics: Metrics

    @property
    def path(self) -> Path:
        """The folder, which becomes the stage's."""
        return self.folder.path

    def event(self, text: str) -> None:
        """Record and show what is not ordinary."""
        self.metrics.event(text)
        self.display.say(text)


@contextmanager
def tuning_place(recipe: TuningRecipe, path: Path, console: Console) -> Iterator[TuningPlace]:
    """Hold the folder of a run against a second process, with the recipe's threads.

    Raises:
        UserError: Another process holds it.
    """
    set_up_process(recipe.threads)
    folder = RunFolder(path)
    with folder.held():
        metrics = Metrics([JsonLines(folder.metrics)])
        try:
            yield TuningPlace(folder, Display(console), metrics)
        finally:
            metrics.close()


def claimed(resolved: TuningResolved, place: TuningPlace, free: Places) -> Stage | None:
    """Make a folder that of a run, or find that it is; return its stage if the run has come to its end.

    Args:
        resolved: The run.
        place: With the folder that it is to have.
        free: Keys that may be others than when the run began.

    Raises:
        UserError: The folder holds another run, or a stage that is damaged.
    """
    for changed in claim(place.folder.recipe, resolved, resolved.fingerprint, free=free, layout=LAYOUT):
        place.display.say(f"{changed} is another than at the start: results agree to rounding only")
    if not is_stage(place.path):
        return None
    place.display.say(f"{place.path} is finished already")
    return open_stage(place.path)


def steps_of(recipe: TuningRecipe, n_rows: int) -> int:
    """Return how many steps a recipe takes over an epoch of so many rows."""
    return recipe.steps or max(1, math.ceil(recipe.epochs * n_rows / recipe.rows))


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
            lambda path: log.watching(LocalStore(path, KEEP, CHECKSUM)),
            on_event,
        ),
    )
    config = LoopConfig(n_steps=n_steps, micro_batches=recipe.micro_batches, max_norm=recipe.max_norm)
    run = Run(config, state, loader, factor, supervisor, {"events": log, **hooks})
    if recipe.faults:
        inject(run, parse(recipe.faults, recipe.seed), folder.path, 0)
    return run, supervisor


def take_steps(
    run: Run, supervisor: GuardedRun, display: Display, is_over: Callable[[], bool] | None = None
) -> bool:
    """Take the steps that are left; False where it was asked to stop before the end.

    Args:
        run: At its beginning.
        supervisor: Its own; takes it to its last checkpoint first.
        display: To show on.
        is_over: Says when the end is; none: when all steps are taken.
    """
    at_end = is_over or (lambda: run.state.step >= run.config.n_steps)
    if supervisor.resume(run):
        display.say(f"going on from step {run.state.step} of {run.config.n_steps}")
    with stop_asked() as stop, display.training(run):
        for report in train(run) if not at_end() else ():
            display.after_step(run, report)
            if stop.asked or at_end():
                break
    supervisor.close(run)
    if at_end():
        return True
    display.say(f"stopped after step {run.state.step} of {run.config.n_steps}; the same command goes on")
    return False
