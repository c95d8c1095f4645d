"""A training on preferences from its recipe to a stage, on fine-tuning's loop, guard and checkpoints.

The reference is the model that training begins with: its log-probabilities are computed before the first step and
kept beside the run, so a run that goes on does not ask it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from rich.console import Console

from modelstack.architecture.decoder import CausalLM
from modelstack.posttrain.driver import TuningPlace, claimed, guarded_run, steps_of, take_steps, tuning_place
from modelstack.posttrain.resolving import resolved_parts
from modelstack.posttrain.sealing import moved_weights, seal_training, write_trained
from modelstack.posttrain.stages.record import Evaluation
from modelstack.posttrain.stages.stage import Stage
from modelstack.posttrain.starting_point import starting_point
from modelstack.posttrain.values_hook import REWARDS_FILE, RewardsHook
from modelstack.preferences.loader import UnitLoader
from modelstack.preferences.passes import PreferencePasses
from modelstack.preferences.prepare import Prepared, prepare
from modelstack.preferences.recipe import FREE, PreferenceRecipe, PreferenceResolved
from modelstack.preferences.scores import progress, rewards_of, score, standing
from modelstack.sft.assemble import trained_state
from modelstack.sft.loader import row_order
from modelstack.stability.supervisor import GuardedRun
from modelstack.train.curves import CurvesHook
from modelstack.train.loop import Hook, Run
from modelstack.train.schedules import schedule


def prefer(recipe: PreferenceRecipe, path: Path, console: Console) -> Stage | None:
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
        return _prefer(recipe, place)


def _prefer(recipe: PreferenceRecipe, place: TuningPlace) -> Stage | None:
    start = starting_point(recipe.base, recipe.weights)
    resolved = PreferenceResolved(**resolved_parts(recipe, start))
    if finished := claimed(resolved, place, FREE):
        return finished
    with place.display.preparing() as told:
        prepared = prepare(resolved, start, place.path, told)
    run, supervisor, loader = _assemble(resolved, prepared, place)
    if not take_steps(run, supervisor, place.display):
        return None
    return _finish(resolved, prepared, run, loader, place)


def _assemble(
    resolved: PreferenceResolved, prepared: Prepared, place: TuningPlace
) -> tuple[Run, GuardedRun, UnitLoader]:
    recipe, units = resolved.recipe, prepared.units
    data = recipe.data
    order = row_order(data, rows=recipe.rows, seed=recipe.seed, row_tokens=data.row_tokens, layout="padded")
    loader = UnitLoader(units, order, units_per_batch=recipe.rows // recipe.micro_batches)
    n_steps = steps_of(recipe, len(units))
    model = prepared.base.model
    state = trained_state(model, recipe, resolved.lora)
    passes = PreferencePasses(model, recipe.method, torch.from_numpy(units.is_desirable), prepared.reference)
    state.passes = passes
    hooks: dict[str, Hook] = {
        "metrics": place.metrics,
        "rewards": RewardsHook(place.path / REWARDS_FILE, passes),
        "curves": CurvesHook(place.folder.metrics, place.path, every=50, metrics=place.metrics),
    }
    factor = schedule(recipe.schedule.over(n_steps))
    return *guarded_run(recipe, state, loader, n_steps, factor, place.folder, place.event, hooks), loader


def _finish(
    resolved: PreferenceResolved, prepared: Prepared, run: Run, loader: UnitLoader, place: TuningPlace
) -> Stage:
    """Write, measure and seal; done again from the last checkpoint where a process is killed meanwhile."""
    recipe, model = resolved.recipe, cast(CausalLM, run.state.model)
    evaluation = Evaluation()
    with place.display.preparing() as told:
        told("writing what was trained")
        parts = write_trained(model, prepared.base.tokenizer, resolved, place.path)
        if prepared.held_back is not None and prepared.before is not None:
            told("measuring on held-back pairs")
            after = score(model, prepared.held_back)
            rewards = rewards_of(recipe.method, after, prepared.before)
            evaluation = Evaluation(before=standing(prepared.before), after=(*standing(after), *progress(rewards)))
    return seal_training(
        resolved,
        run,
        model,
        place,
        kind="preference",
        what=(
            f"Preference training ({recipe.method.name}) of {resolved.parent.name}, "
            f"{moved_weights(resolved.lora)}: {run.state.step:,} steps of {recipe.rows} "
            f"{'pairs' if prepared.units.form == 'pairs' else 'replies'}, from {len(prepared.units):,}."
        ),
        data=prepared.manifest,
        evaluation=evaluation,
        n_tokens=loader.report()["n_tokens"],
        parts=[*parts, REWARDS_FILE],
    )
