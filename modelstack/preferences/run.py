"""A training on preferences from its recipe to a stage, on fine-tuning's loop, guard and checkpoints.

The reference is the model that training begins with: its log-probabilities are computed before the first step and
kept beside the run, so a run that goes on does not ask it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console

from modelstack.architecture.decoder import CausalLM
from modelstack.preferences.loader import UnitLoader
from modelstack.preferences.passes import PreferencePasses
from modelstack.preferences.prepare import Prepared, prepare
from modelstack.preferences.recipe import FREE, PreferenceRecipe, PreferenceResolved
from modelstack.preferences.rewards_hook import REWARDS_FILE, RewardsHook
from modelstack.preferences.scores import progress, rewards_of, score, standing
from modelstack.runs.folder import RunFolder
from modelstack.runs.progress import Display
from modelstack.runs.report import machine_facts
from modelstack.sft.assemble import trained_state
from modelstack.sft.finish import moved_weights, training_metrics, versions, write_trained
from modelstack.sft.run import claimed, resolved_parts, take_steps
from modelstack.sft.stage import Stage, seal
from modelstack.sft.stage_record import Evaluation, StageRecord
from modelstack.sft.starting_point import starting_point
from modelstack.sft.tuning_run import guarded_run, held_folder, logged, row_order, steps_of
from modelstack.stability.supervisor import GuardedRun
from modelstack.train.curves import CURVES_FILE, PLOT_FILE, CurvesHook, write_curves
from modelstack.train.loop import Hook, Run
from modelstack.train.metrics import METRICS_FILE, Metrics
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
    with held_folder(recipe, path) as folder:
        return _prefer(recipe, folder, Display(console))


def _prefer(recipe: PreferenceRecipe, folder: RunFolder, display: Display) -> Stage | None:
    start = starting_point(recipe.base, recipe.weights)
    resolved = PreferenceResolved(**resolved_parts(recipe, start))
    if finished := claimed(resolved, folder, display, FREE):
        return finished
    with display.preparing() as told:
        prepared = prepare(resolved, start, folder.path, told)
    metrics, on_event = logged(folder, display)
    run, supervisor, loader = _assemble(resolved, prepared, folder, metrics, on_event)
    if not take_steps(run, supervisor, display, lambda: run.state.step >= run.config.n_steps):
        return None
    metrics.close()
    return _finish(resolved, prepared, run, loader, folder, display)


def _assemble(
    resolved: PreferenceResolved, prepared: Prepared, folder: RunFolder, metrics: Metrics, on_event: Any
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
        "metrics": metrics,
        "rewards": RewardsHook(folder.path / REWARDS_FILE, passes),
        "curves": CurvesHook(folder.metrics, folder.path, every=50, metrics=metrics),
    }
    factor = schedule(recipe.schedule.over(n_steps))
    return *guarded_run(recipe, state, loader, n_steps, factor, folder, on_event, hooks), loader


def _finish(
    resolved: PreferenceResolved,
    prepared: Prepared,
    run: Run,
    loader: UnitLoader,
    folder: RunFolder,
    display: Display,
) -> Stage:
    """Write, measure and seal; done again from the last checkpoint where a process is killed meanwhile."""
    recipe, model = resolved.recipe, cast(CausalLM, run.state.model)
    evaluation = Evaluation()
    with display.preparing() as told:
        told("writing what was trained")
        parts = write_trained(
            model,
            resolved.lora,
            prepared.base.tokenizer,
            folder.path,
            name=recipe.name,
            base_sha256=resolved.base_sha256,
        )
        if prepared.held_back is not None and prepared.before is not None:
            told("measuring on held-back pairs")
            after = score(model, prepared.held_back)
            rewards = rewards_of(recipe.method, after, prepared.before)
            evaluation = Evaluation(before=standing(prepared.before), after=(*standing(after), *progress(rewards)))
    write_curves(folder.metrics, folder.path)
    parts += [METRICS_FILE, REWARDS_FILE, CURVES_FILE, PLOT_FILE]
    n_tokens = loader.report()["n_tokens"]
    record = StageRecord(
        kind="preference",
        name=recipe.name,
        what=(
            f"Preference training ({recipe.method.name}) of {prepared.start.parent.name}, "
            f"{moved_weights(resolved.lora)}: {run.state.step:,} steps of {recipe.rows} "
            f"{'pairs' if prepared.units.form == 'pairs' else 'replies'}, from {len(prepared.units):,}."
        ),
        parents=(prepared.start.parent,),
        base_sha256=prepared.start.sha256,
        recipe=resolved.portable,
        recipe_sha256=resolved.fingerprint,
        seed=recipe.seed,
        data=prepared.manifest,
        evaluation=evaluation,
        metrics=training_metrics(run.state, model, n_tokens, folder),
        versions=versions() | machine_facts(next(model.parameters()).device),
    )
    stage = seal(folder.path, record, parts)
    display.say(f"{folder.path}: {record.what}")
    for each in evaluation.after:
        display.say(f"  {each.name}: {each.value:.4f} ({each.low:.4f} to {each.high:.4f}), n = {each.n}")
    return stage
