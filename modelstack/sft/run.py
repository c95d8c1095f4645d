"""A fine-tuning from its recipe to a stage: it stops, is killed, and goes on at any time to the same weights.

The loop, its guard, its checkpoints and what is shown of it are those of a run from scratch; what differs is what
is loaded, and what is left at the end. The stage's record is written last, so a folder with one is finished.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from modelstack.errors import UserError
from modelstack.files import sha256_of
from modelstack.runs.folder import RunFolder, claim
from modelstack.runs.progress import Display
from modelstack.runs.stopping import stop_asked
from modelstack.sft.adapter_files import read_adapter
from modelstack.sft.assemble import assemble
from modelstack.sft.finish import finish
from modelstack.sft.lora_config import LoraConfig
from modelstack.sft.prepare import prepare
from modelstack.sft.recipe import FREE, SftRecipe, SftResolved
from modelstack.sft.stage import ADAPTER, Stage, is_stage, open_stage
from modelstack.sft.starting_point import StartingPoint, starting_point
from modelstack.sft.tuning import LAYOUT, TuningRecipe, TuningResolved
from modelstack.sft.tuning_run import held_folder, logged
from modelstack.sft.validation_loss import Targets, validation_score
from modelstack.stability.supervisor import GuardedRun
from modelstack.train.curves import CurvesHook
from modelstack.train.evaluation import Evaluation
from modelstack.train.loop import Hook, Run, train
from modelstack.train.metrics import Metrics


def fine_tune(recipe: SftRecipe, path: Path, console: Console) -> Stage | None:
    """Run a recipe, or go on with it; the stage when it came to its end, None when it was asked to stop.

    Args:
        recipe: What to do.
        path: The run's folder, which becomes the stage's.
        console: To show on.

    Raises:
        UserError: Parts do not fit together, or the folder holds another run.
        TrainingStopped: The guard ended it.
    """
    with held_folder(recipe, path) as folder:
        return _fine_tune(recipe, folder, Display(console))


def _fine_tune(recipe: SftRecipe, folder: RunFolder, display: Display) -> Stage | None:
    start = starting_point(recipe.base, recipe.weights)
    resolved = resolve(recipe, start)
    if finished := claimed(resolved, folder, display, FREE):
        return finished
    with display.preparing() as told:
        prepared = prepare(resolved, start, folder.path, told)
    metrics, on_event = logged(folder, display)
    assembled = assemble(resolved, prepared, folder, on_event)
    assembled.run.hooks.update(_hooks(recipe, folder, prepared.targets, metrics))
    if not take_steps(assembled.run, assembled.supervisor, display, lambda: assembled.is_over):
        return None
    metrics.close()
    return finish(resolved, prepared, assembled, folder, display)


def claimed(
    resolved: TuningResolved, folder: RunFolder, display: Display, free: set[tuple[str, ...]]
) -> Stage | None:
    """Make a folder that of a run, or find that it is; return its stage if the run has come to its end.

    Args:
        resolved: The run.
        folder: That it is to have.
        display: Is told what is of note.
        free: Keys that may be others than when the run began.

    Raises:
        UserError: The folder holds another run, or a stage that is damaged.
    """
    for changed in claim(folder.recipe, resolved, resolved.fingerprint, free=free, layout=LAYOUT):
        display.say(f"{changed} is another than at the start: results agree to rounding only")
    if not is_stage(folder.path):
        return None
    display.say(f"{folder.path} is finished already")
    return open_stage(folder.path)


def resolve(recipe: SftRecipe, start: StartingPoint) -> SftResolved:
    """Return a recipe with nothing open.

    Raises:
        UserError: An adapter that is gone on with is to have another form, or a training file is not there.
    """
    return SftResolved(**resolved_parts(recipe, start))


def resolved_parts(recipe: TuningRecipe, start: StartingPoint) -> dict[str, Any]:
    """Return what a recipe leaves open: where its base lies, hashes, the form of the adapter.

    Raises:
        UserError: An adapter that is gone on with is to have another form, or a training file is not there.
    """
    lora = resolved_lora(recipe, start)
    missing = [file.path for file in recipe.data.training if not Path(file.path).is_file()]
    if missing:
        raise UserError(f"data.training: {missing[0]} is not there")
    return {
        "recipe": recipe,
        "weights": str(start.weights.resolve()),
        "base_sha256": start.sha256,
        "parent": start.parent,
        "lora": lora,
        "data_sha256": tuple(sha256_of(file.path) for file in recipe.data.training),
    }


def resolved_lora(recipe: TuningRecipe, start: StartingPoint) -> LoraConfig | None:
    """Return the form of the adapter that is trained; None: all weights are.

    Raises:
        UserError: An adapter that is gone on with is to have another form, or all weights are to move under it.
    """
    if start.stage is None:
        return None if recipe.train == "full" else recipe.lora or LoraConfig()
    own = _lora_of(start.stage)
    if recipe.train == "full":
        raise UserError(f"base {recipe.base} is an adapter and train = 'full' moves all weights: merge it first")
    if recipe.lora not in (None, own):
        raise UserError(
            f"base {recipe.base} is an adapter with {own!r}, the recipe's lora is {recipe.lora!r}: leave the "
            f"table out to go on with it, or merge the stage and train a new adapter on that"
        )
    return own


def _lora_of(stage: Stage) -> LoraConfig:
    """Return what a stage's adapter was made with: its recipe knows more than peft's file."""
    told = stage.record.recipe.get("lora")
    return LoraConfig.model_validate(told) if told else read_adapter(stage.path / ADAPTER).config


def take_steps(run: Run, supervisor: GuardedRun, display: Display, is_over: Callable[[], bool]) -> bool:
    """Take the steps that are left until all is over; False where it was asked to stop before."""
    if supervisor.resume(run):
        display.say(f"going on from step {run.state.step} of {run.config.n_steps}")
    with stop_asked() as stop, display.training(run):
        for report in train(run) if not is_over() else ():
            display.after_step(run, report)
            if stop.asked or is_over():
                break
    supervisor.close(run)
    if is_over():
        return True
    display.say(f"stopped after step {run.state.step} of {run.config.n_steps}; the same command goes on")
    return False


def _hooks(recipe: SftRecipe, folder: RunFolder, targets: Targets | None, metrics: Metrics) -> dict[str, Hook]:
    """Return what watches the run; the order is that of a step."""
    every = recipe.evaluation.every
    hooks: dict[str, Hook] = {"metrics": metrics}
    if targets is not None:
        score = partial(validation_score, targets=targets, row_tokens=recipe.data.row_tokens)
        hooks["evaluation"] = Evaluation(score, every=every, metrics=metrics)
    hooks["curves"] = CurvesHook(folder.metrics, folder.path, every=every, metrics=metrics)
    return hooks
