"""A reward model from its recipe to a stage, on fine-tuning's loop, guard and checkpoints.

Its stage holds a checkpoint folder with a head (`value_model`), whatever was trained: adapters are merged, since
nothing serves a reward model beside its base.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

from rich.console import Console

from modelstack.preferences.reward_loader import PairLoader
from modelstack.preferences.reward_passes import RewardPasses
from modelstack.preferences.reward_prepare import PreparedReward, prepare_reward
from modelstack.preferences.reward_recipe import FREE, RewardRecipe, RewardResolved
from modelstack.preferences.reward_scores import measured, normalise, score_pairs
from modelstack.preferences.rewards_hook import REWARDS_FILE, RewardsHook
from modelstack.preferences.value_model import ValueModel, save_value_model
from modelstack.preferences.value_training import value_state
from modelstack.runs.folder import RunFolder
from modelstack.runs.progress import Display
from modelstack.runs.report import machine_facts
from modelstack.sft.finish import moved_weights, training_metrics, versions
from modelstack.sft.run import claimed, resolved_parts, take_steps
from modelstack.sft.stage import MODEL, Stage, seal
from modelstack.sft.stage_record import Evaluation, StageRecord
from modelstack.sft.starting_point import starting_point
from modelstack.sft.tuning_run import guarded_run, held_folder, logged, row_order, steps_of
from modelstack.stability.supervisor import GuardedRun
from modelstack.train.curves import CURVES_FILE, PLOT_FILE, CurvesHook, write_curves
from modelstack.train.loop import Hook, Run
from modelstack.train.metrics import METRICS_FILE, Metrics
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
    with held_folder(recipe, path) as folder:
        return _train(recipe, folder, Display(console))


def _train(recipe: RewardRecipe, folder: RunFolder, display: Display) -> Stage | None:
    start = starting_point(recipe.base, recipe.weights)
    resolved = RewardResolved(**resolved_parts(recipe, start))
    if finished := claimed(resolved, folder, display, FREE):
        return finished
    with display.preparing() as told:
        prepared = prepare_reward(resolved, start, told)
    metrics, on_event = logged(folder, display)
    run, supervisor, loader = _assemble(resolved, prepared, folder, metrics, on_event)
    if not take_steps(run, supervisor, display, lambda: run.state.step >= run.config.n_steps):
        return None
    metrics.close()
    return _finish(resolved, prepared, run, loader, folder, display)


def _assemble(
    resolved: RewardResolved,
    prepared: PreparedReward,
    folder: RunFolder,
    metrics: Metrics,
    on_event: Callable[[str], None],
) -> tuple[Run, GuardedRun, PairLoader]:
    recipe = resolved.recipe
    data = recipe.data
    order = row_order(data, rows=recipe.rows, seed=recipe.seed, row_tokens=data.row_tokens, layout="padded")
    loader = PairLoader(prepared.units, order, pairs_per_batch=recipe.rows // recipe.micro_batches)
    n_steps = steps_of(recipe, len(prepared.units))
    passes = RewardPasses(prepared.model, recipe.loss)
    state = value_state(prepared.model, recipe, resolved.lora, passes)
    hooks: dict[str, Hook] = {
        "metrics": metrics,
        "rewards": RewardsHook(folder.path / REWARDS_FILE, passes),
        "curves": CurvesHook(folder.metrics, folder.path, every=50, metrics=metrics),
    }
    factor = schedule(recipe.schedule.over(n_steps))
    return *guarded_run(recipe, state, loader, n_steps, factor, folder, on_event, hooks), loader


def _finish(
    resolved: RewardResolved,
    prepared: PreparedReward,
    run: Run,
    loader: PairLoader,
    folder: RunFolder,
    display: Display,
) -> Stage:
    """Measure, write and seal; done again from the last checkpoint where a process is killed meanwhile."""
    recipe, model = resolved.recipe, cast(ValueModel, run.state.model)
    evaluation = Evaluation()
    with display.preparing() as told:
        told("scoring chosen replies")
        chosen = score_pairs(model, prepared.units, recipe.max_normalised)[:, 0]
        normalised = normalise(model, chosen)
        if prepared.held_back is not None and prepared.before is not None:
            told("scoring held-back pairs")
            after = score_pairs(model, prepared.held_back)
            evaluation = Evaluation(before=measured(prepared.before), after=measured(after))
        told("writing what was trained")
        save_value_model(model, prepared.base.tokenizer, folder.path / MODEL, normalised)
    write_curves(folder.metrics, folder.path)
    trained = training_metrics(run.state, model.body, loader.report()["n_tokens"], folder)
    record = StageRecord(
        kind="preference",
        name=recipe.name,
        what=(
            f"Reward model of {prepared.start.parent.name}, {moved_weights(resolved.lora)} and a scalar head: "
            f"{run.state.step:,} steps of {recipe.rows} pairs, from {len(prepared.units):,}; training's chosen "
            f"replies have mean 0 and deviation {normalised.deviation:.3g}."
        ),
        parents=(prepared.start.parent,),
        base_sha256=prepared.start.sha256,
        recipe=resolved.portable,
        recipe_sha256=resolved.fingerprint,
        seed=recipe.seed,
        data=prepared.manifest,
        evaluation=evaluation,
        metrics=trained,
        versions=versions() | machine_facts(model.score.weight.device),
    )
    stage = seal(folder.path, record, [MODEL, METRICS_FILE, REWARDS_FILE, CURVES_FILE, PLOT_FILE])
    display.say(f"{folder.path}: {record.what}")
    for each in evaluation.after:
        display.say(f"  {each.name}: {each.value:.4f} ({each.low:.4f} to {each.high:.4f}), n = {each.n}")
    return stage
