"""A fine-tuning from its recipe to a stage: it stops, is killed, and goes on at any time to the same weights.

The loop, its guard, its checkpoints and what is shown of it are those of a run from scratch; what differs is what
is loaded, and what is left at the end. The stage's record is written last, so a folder with one is finished.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from modelstack.posttrain.driver import TuningPlace, claimed, take_steps, tuning_place
from modelstack.posttrain.resolving import resolved_parts
from modelstack.posttrain.stages.stage import Stage
from modelstack.posttrain.starting_point import StartingPoint, starting_point
from modelstack.sft.assemble import assemble
from modelstack.sft.finish import finish
from modelstack.sft.prepare import prepare
from modelstack.sft.recipe import FREE, SftRecipe, SftResolved
from modelstack.sft.validation_loss import Targets, validation_score
from modelstack.train.curves import CurvesHook
from modelstack.train.evaluation import Evaluation
from modelstack.train.loop import Hook


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
    with tuning_place(recipe, path, console) as place:
        return _fine_tune(recipe, place)


def _fine_tune(recipe: SftRecipe, place: TuningPlace) -> Stage | None:
    start = starting_point(recipe.base, recipe.weights)
    resolved = resolve(recipe, start)
    if finished := claimed(resolved, place, FREE):
        return finished
    with place.display.preparing() as told:
        prepared = prepare(resolved, start, place.path, told)
    assembled = assemble(resolved, prepared, place.folder, place.event)
    assembled.run.hooks.update(_hooks(recipe, prepared.targets, place))
    if not take_steps(assembled.run, assembled.supervisor, place.display, lambda: assembled.is_over):
        return None
    return finish(resolved, prepared, assembled, place)


def resolve(recipe: SftRecipe, start: StartingPoint) -> SftResolved:
    """Return a recipe with nothing open.

    Raises:
        UserError: An adapter that is gone on with is to have another form, or a training file is not there.
    """
    return SftResolved(**resolved_parts(recipe, start))


def _hooks(recipe: SftRecipe, targets: Targets | None, place: TuningPlace) -> dict[str, Hook]:
    """Return what watches the run; the order is that of a step."""
    every, metrics = recipe.evaluation.every, place.metrics
    hooks: dict[str, Hook] = {"metrics": metrics}
    if targets is not None:
        score = partial(validation_score, targets=targets, row_tokens=recipe.data.row_tokens)
        hooks["evaluation"] = Evaluation(score, every=every, metrics=metrics)
    hooks["curves"] = CurvesHook(place.folder.metrics, place.path, every=every, metrics=metrics)
    return hooks
