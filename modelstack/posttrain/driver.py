"""Driver of all post-training: runs any method from a recipe to a sealed stage.

The driver owns the folder and its lock, the resolved recipe, the starting point, optimizer, schedule, guard,
checkpoints, resume, faults, metrics, curves, processes, steps and the sealed stage. A method (`training`) adds its
rows, its loader, its loss and its report. A run can be stopped or killed at any time; the same command resumes it
and produces the same bits. The stage's record is written last, so a folder with a record is finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from modelstack.errors import UserError
from modelstack.posttrain.clock import Clock
from modelstack.posttrain.lora.state import AdapterState
from modelstack.posttrain.passes import TuningPasses
from modelstack.posttrain.processes import Processes, joined_processes
from modelstack.posttrain.recipe import LAYOUT, TuningRecipe, TuningResolved
from modelstack.posttrain.sealing import seal_training
from modelstack.posttrain.sharding import unshard
from modelstack.posttrain.stages.record import Evaluation
from modelstack.posttrain.stages.stage import Stage, is_stage, open_stage
from modelstack.posttrain.starting_point import device_kind, starting_point
from modelstack.posttrain.training import Job, Training, TuningLoader
from modelstack.posttrain.values_hook import ValuesHook
from modelstack.run_folder import RunFolder, claim
from modelstack.stability.checkpoint_folders import Checksum, checkpoints, kind_of
from modelstack.stability.fault_injection import inject
from modelstack.stability.faults import parse
from modelstack.stability.guard import Guard
from modelstack.stability.memory_checkpoints import CHECKSUM, KEEP, open_memory
from modelstack.stability.run_checkpoints import CheckpointStore, LocalStore
from modelstack.stability.run_events import EVENTS_FILE, EventLog
from modelstack.stability.sharded_checkpoints import ShardedStore
from modelstack.stability.supervisor import GuardedRun, SupervisorConfig
from modelstack.train.curves import CurvesHook
from modelstack.train.loop import Hook, LoopConfig, Run, train
from modelstack.train.metrics import JsonLines, Metrics
from modelstack.train.precision import with_fp32_masters
from modelstack.train.process import set_up_process
from modelstack.train.run.progress import Display
from modelstack.train.run.stopping import stop_asked
from modelstack.train.schedules import schedule
from modelstack.train.step import TrainState

CURVES_EVERY = 50
"""Steps between two drawings of the curves."""


def run_training(method: type[Training[Any]], recipe: TuningRecipe, path: Path, console: Console) -> Stage | None:
    """Run a recipe, or resume it; return its stage, or None if a stop was requested before the end.

    Args:
        method: Method of the recipe.
        recipe: The recipe.
        path: Folder of the run, which becomes the folder of the stage.
        console: Console for progress.

    Raises:
        UserError: The recipe's parts contradict each other or its files, or the folder holds another run.
        TrainingStopped: The guard ended the run.
    """
    set_up_process(recipe.threads)
    folder = RunFolder(path)
    with joined_processes(device_kind(recipe)) as processes, ExitStack() as held:
        display = Display(console if processes.is_first else Console(quiet=True))
        _check_spread(method, recipe, processes)
        start = starting_point(recipe.base, recipe.weights)
        resolved = method.resolve(recipe, start)
        if finished := processes.on_first(lambda: _claimed(resolved, folder, display, held)):
            return finished
        if is_stage(path):
            return open_stage(path)
        metrics = held.enter_context(_metrics(folder, processes))
        with display.preparing() as told:
            job = Job(resolved, start, path, processes, held)
            training = processes.first_then_others(lambda: method(job, told))
            training.measure(told)
        assembled = Assembled(training, folder, metrics, display)
        return assembled.seal() if assembled.take_steps() else None


def _check_spread(method: type[Training[Any]], recipe: TuningRecipe, processes: Processes) -> None:
    """Refuse a recipe that cannot run in several processes.

    Raises:
        UserError: The method trains in one process, or the recipe has a time limit, which two processes would not
            reach in the same step.
    """
    if processes.mesh is None:
        return
    if not method.is_spread:
        raise UserError(f"recipe {recipe.name!r}: its method trains in one process; start it without torchrun")
    if recipe.minutes is not None:
        raise UserError(
            f"minutes = {recipe.minutes} is a limit for one process: leave it out and set steps or epochs"
        )


def _claimed(resolved: TuningResolved[Any], folder: RunFolder, display: Display, held: ExitStack) -> Stage | None:
    """Lock the folder and claim it for this run; return the stage if the run is finished.

    Raises:
        UserError: Another process works in the folder, or it holds another run or a damaged stage.
    """
    held.enter_context(folder.held())
    for changed in claim(folder.recipe, resolved, resolved.fingerprint, free=resolved.free, layout=LAYOUT):
        display.say(f"{changed} changed since the start of the run: results agree up to rounding only")
    if not is_stage(folder.path):
        return None
    display.say(f"{folder.path} is already finished")
    return open_stage(folder.path)


@contextmanager
def _metrics(folder: RunFolder, processes: Processes) -> Iterator[Metrics]:
    metrics = Metrics([JsonLines(folder.metrics)] if processes.is_first else [])
    try:
        yield metrics
    finally:
        metrics.close()


class Assembled:
    """Training with its loop, guard, checkpoints, metrics and display."""

    def __init__(self, training: Training[Any], folder: RunFolder, metrics: Metrics, display: Display) -> None:
        """Build the run at step 0.

        Args:
            training: The method's part, with its rows and its model loaded.
            folder: Folder of the run.
            metrics: Record of the steps.
            display: Shows progress and events.

        Raises:
            UserError: The recipe's parts contradict each other.
        """
        self._training, self._folder, self._metrics, self._display = training, folder, metrics, display
        recipe, self._processes = training.resolved.recipe, training.job.processes
        state, self._loader = _state(training)
        factor = schedule(recipe.schedule.over(training.n_steps))
        self._clock = Clock(factor, training.n_steps, recipe.minutes) if recipe.minutes else None
        log = EventLog(folder.path / EVENTS_FILE) if self._processes.is_first else None
        self._supervisor = _supervisor(recipe, folder, log, self._processes, self._event)
        self._supervisor.on_roll_back = lambda run: training.after_roll_back()
        self._run = Run(
            LoopConfig(n_steps=training.n_steps, micro_batches=training.micro_batches, max_norm=recipe.max_norm),
            state,
            self._loader,
            self._clock.factor if self._clock else factor,
            self._supervisor,
            ({"events": log} if log else {}) | self._hooks(state),
        )
        if recipe.faults:
            inject(self._run, parse(recipe.faults, recipe.seed), folder.path, self._processes.rank)

    def _event(self, text: str) -> None:
        self._metrics.event(text)
        self._display.say(text)

    def _hooks(self, state: TrainState) -> dict[str, Hook]:
        """Return the hooks of the run, in the order in which they are called after a step."""
        training, folder = self._training, self._folder
        hooks: dict[str, Hook] = {"metrics": self._metrics}
        if self._clock is not None:
            hooks["clock"] = self._clock
        if self._processes.is_first and isinstance(state.passes, TuningPasses):
            hooks["values"] = ValuesHook(folder.path / training.values_file, state.passes)
        hooks |= training.hooks(self._metrics)
        if self._processes.is_first:
            hooks["curves"] = CurvesHook(folder.metrics, folder.path, every=CURVES_EVERY, metrics=self._metrics)
        return hooks

    @property
    def is_over(self) -> bool:
        """Whether all steps are done or the time limit is reached; false before the first step."""
        step = self._run.state.step
        return step >= self._run.config.n_steps or (step > 0 and self._clock is not None and self._clock.is_over)

    def take_steps(self) -> bool:
        """Take the remaining steps from the last checkpoint on; return False if a stop was requested earlier."""
        run, display = self._run, self._display
        if self._supervisor.resume(run):
            display.say(f"resumed at step {run.state.step} of {run.config.n_steps}")
        with stop_asked() as stop, display.training(run):
            for report in train(run) if not self.is_over else ():
                display.after_step(run, report)
                if self._processes.ranks.worst(int(stop.asked)) or self.is_over:
                    break
        self._supervisor.close(run)
        if self.is_over:
            return True
        display.say(f"stopped after step {run.state.step} of {run.config.n_steps}; run the same command to resume")
        return False

    def seal(self) -> Stage:
        """Write, measure and seal the stage in the first process.

        A killed run repeats this from its last checkpoint.
        """
        if self._processes.mesh is not None:
            unshard(self._training)
        return self._processes.on_first(self._sealed) or open_stage(self._folder.path)

    def _sealed(self) -> Stage:
        training, run = self._training, self._run
        with self._display.preparing() as told:
            told("writing the trained weights")
            parts = training.write()
            report = training.report(run.state.step, told)
        if isinstance(run.state.passes, TuningPasses):
            parts.append(training.values_file)
        return seal_training(
            training.resolved,
            run,
            training.base.model,
            self._folder,
            kind=training.kind,
            what=report.what,
            data=training.data,
            evaluation=Evaluation(before=training.before, after=report.after),
            n_tokens=self._loader.n_tokens,
            parts=[*parts, *report.parts],
            say=self._display.say,
        )


def _state(training: Training[Any]) -> tuple[TrainState, TuningLoader]:
    """Return the state that training changes and the loader; checkpoints of adapters hold trained weights only."""
    resolved, model = training.resolved, training.model
    is_spread = training.job.processes.mesh is not None  # FSDP2 keeps fp32 masters itself
    if resolved.lora is not None or resolved.recipe.precision == "fp32" or is_spread:
        optimizer = training.optimizer(model)
    else:
        optimizer = with_fp32_masters(model, training.optimizer)
    loader, passes = training.parts()
    if isinstance(passes, TuningPasses):
        passes.processes = training.job.processes
    kind = TrainState if resolved.lora is None else AdapterState
    return kind(model, optimizer, passes), loader


def _supervisor(
    recipe: TuningRecipe,
    folder: RunFolder,
    log: EventLog | None,
    processes: Processes,
    on_event: Callable[[str], None],
) -> GuardedRun:
    """Return the guard of a run, with its checkpoints and roll-back; every process calls this."""
    newest = checkpoints(folder.checkpoints)[:1]
    is_sharded = processes.mesh is not None or any(kind_of(path) == "sharded" for _, path in newest)

    def store(path: Path, keep: int, checksum: Checksum) -> CheckpointStore:
        made = (ShardedStore if is_sharded else LocalStore)(path, keep, checksum=checksum)
        return log.watching(made) if log else made

    kept, ranks = recipe.checkpoints, processes.ranks
    return GuardedRun(
        Guard(recipe.guard, ranks.worst),
        store(folder.checkpoints, kept.keep, "sha256"),
        SupervisorConfig(save_every=kept.every),
        on_event,
        memory=open_memory(
            folder.checkpoints, kept.memory_every, ranks, lambda path: store(path, KEEP, CHECKSUM), on_event
        ),
    )
