"""A reward model from its recipe to a stage, on fine-tuning's loop, guard and checkpoints.

Its stage holds a checkpoint folder with a head (`value_model`), whatever was trained: adapters are merged, since
nothing serves a reward model beside its base.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from rich.console import Console

from modelstack.posttrain.driver import TuningPlace, claimed, guarded_run, steps_of, take_steps, tuning_place
from modelstack.posttrain.resolving import resolved_parts
from modelstack.posttrain.sealing import moved_weights, seal_training
from modelstack.posttrain.stages.record import Evaluation
from modelstack.posttrain.stages.stage import MODEL, Stage
from modelstack.posttrain.starting_point import starting_point
from modelstack.posttrain.values_hook import REWARDS_FILE, RewardsHook
from modelstack.preferences.reward.loader import PairLoader
from modelstack.preferences.reward.passes import RewardPasses
from modelstack.preferences.reward.prepare import PreparedReward, prepare_reward
from modelstack.preferences.reward.recipe import FREE, RewardRecipe, RewardResolved
from modelstack.preferences.reward.scores import measured, normalise, score_pairs
from modelstack.preferences.reward.value_model import ValueModel, save_value_model
from modelstack.preferences.reward.value_training import value_state
from modelstack.sft.loader import row_order
from modelstack.stability.supervisor import GuardedRun
from modelstack.train.curves import CurvesHook
from modelstack.train.loop import Hook, Run
from modelstack.train.schedules import schedule


def train_reward_model(recipe: RewardRecipe, path: Path, console: Console) -> Stage | None:
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
        return _train(recipe, place)


def _train(recipe: RewardRecipe, place: TuningPlace) -> Stage | None:
    start = starting_point(recipe.base, recipe.weights)
    resolved = RewardResolved(**resolved_parts(recipe, start))
    if finished := claimed(resolved, place, FREE):
        return finished
    with place.display.preparing() as told:
        prepared = prepare_reward(resolved, start, told)
    run, supervisor, loader = _assemble(resolved, prepared, place)
    if not take_steps(run, supervisor, place.display):
        return None
    return _finish(resolved, prepared, run, loader, place)


def _assemble(
    resolved: RewardResolved, prepared: PreparedReward, place: TuningPlace
) -> tuple[Run, GuardedRun, PairLoader]:
    recipe = resolved.recipe
    data = recipe.data
    order = row_order(data, rows=recipe.rows, seed=recipe.seed, row_tokens=data.row_tokens, layout="padded")
    loader = PairLoader(prepared.units, order, pairs_per_batch=recipe.rows // recipe.micro_batches)
    n_steps = steps_of(recipe, len(prepared.units))
    passes = RewardPasses(prepared.model, recipe.loss)
    state = value_state(prepared.model, recipe, resolved.lora, passes)
    hooks: dict[str, Hook] = {
        "metrics": place.metrics,
        "rewards": RewardsHook(place.path / REWARDS_FILE, passes),
        "curves": CurvesHook(place.folder.metrics, place.path, every=50, metrics=place.metrics),
    }
    factor = schedule(recipe.schedule.over(n_steps))
    return *guarded_run(recipe, state, loader, n_steps, factor, place.folder, place.event, hooks), loader


def _finish(
    resolved: RewardResolved, prepared: PreparedReward, run: Run, loader: PairLoader, place: TuningPlace
) -> Stage:
    """Measure, write and seal; done again from the last checkpoint where a process is killed meanwhile."""
    recipe, model = resolved.recipe, cast(ValueModel, run.state.model)
    evaluation = Evaluation()
    with place.display.preparing() as told:
        told("scoring chosen replies")
        chosen = score_pairs(model, prepared.units, recipe.max_normalised)[:, 0]
        normalised = normalise(model, chosen)
        if prepared.held_back is not None and prepared.before is not None:
            told("scoring held-back pairs")
            after = score_pairs(model, prepared.held_back)
            evaluation = Evaluation(before=measured(prepared.before), after=measured(after))
        told("writing what was trained")
        save_value_model(model, prepared.base.tokenizer, place.path / MODEL, normalised)
    return seal_training(
        resolved,
        run,
        model.body,
        place,
        kind="preference",
        what=(
            f"Reward model of {resolved.parent.name}, {moved_weights(resolved.lora)} and a scalar head: "
            f"{run.state.step:,} steps of {recipe.rows} pairs, from {len(prepared.units):,}; training's chosen "
            f"replies have mean 0 and deviation {normalised.deviation:.3g}."
        ),
        data=prepared.manifest,
        evaluation=evaluation,
        n_tokens=loader.report()["n_tokens"],
        parts=[MODEL, REWARDS_FILE],
    )
