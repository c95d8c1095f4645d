"""A distillation from its recipe to a stage, on fine-tuning's loop, guard and checkpoints.

The stage is of the kind `distilled`; its parents are the student as it was and the teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

from rich.console import Console

from modelstack.architecture.decoder import CausalLM
from modelstack.preferences.rewards_hook import RewardsHook
from modelstack.reasoning.distil.loader import DistilLoader
from modelstack.reasoning.distil.measure import measured
from modelstack.reasoning.distil.passes import DistilPasses
from modelstack.reasoning.distil.prepare import Prepared, load_teacher, prepare
from modelstack.reasoning.distil.recipe import FREE, DistilRecipe, DistilResolved
from modelstack.reasoning.distil.stored_teacher import StoredTeacher
from modelstack.reasoning.equal_length_sampler import EqualLengthSampler
from modelstack.runs.folder import RunFolder
from modelstack.runs.progress import Display
from modelstack.runs.report import machine_facts
from modelstack.sft.assemble import trained_state
from modelstack.sft.finish import moved_weights, training_metrics, versions, write_trained
from modelstack.sft.run import claimed, resolved_parts, take_steps
from modelstack.sft.stage import Stage, seal
from modelstack.sft.stage_card import shown
from modelstack.sft.stage_record import Evaluation, StageRecord
from modelstack.sft.starting_point import starting_point
from modelstack.sft.tuning_run import guarded_run, held_folder, logged, row_order, steps_of
from modelstack.stability.supervisor import GuardedRun
from modelstack.train.curves import CURVES_FILE, PLOT_FILE, CurvesHook, write_curves
from modelstack.train.loop import Hook, Run
from modelstack.train.metrics import METRICS_FILE, Metrics
from modelstack.train.schedules import schedule

DIVERGENCES_FILE = "divergences.jsonl"
"""What the loss says of each step: agreement, entropy, the tail's mass, the share on policy."""


def distil(recipe: DistilRecipe, path: Path, console: Console) -> Stage | None:
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
        return _distil(recipe, folder, Display(console))


def resolve(recipe: DistilRecipe) -> DistilResolved:
    """Return a recipe with nothing open.

    Raises:
        UserError: Student, teacher or a file is not there, or an adapter is to have another form.
    """
    teacher = starting_point(recipe.teacher, recipe.teacher_weights)
    return DistilResolved(
        **resolved_parts(recipe, starting_point(recipe.base, recipe.weights)),
        teacher=teacher.parent,
        teacher_sha256=teacher.sha256,
        teacher_weights=str(teacher.weights.resolve()),
    )


def _distil(recipe: DistilRecipe, folder: RunFolder, display: Display) -> Stage | None:
    resolved = resolve(recipe)
    if finished := claimed(resolved, folder, display, FREE):
        return finished
    with display.preparing() as told:
        prepared = prepare(resolved, starting_point(recipe.base, recipe.weights), folder.path, told)
    metrics, on_event = logged(folder, display)
    run, supervisor, loader = _assemble(resolved, prepared, folder, metrics, on_event)
    if not take_steps(run, supervisor, display, lambda: run.state.step >= run.config.n_steps):
        return None
    metrics.close()
    return _finish(resolved, prepared, run, loader, folder, display)


def _loader(recipe: DistilRecipe, prepared: Prepared) -> DistilLoader:
    plan, base = recipe.on_policy, prepared.base
    sampler = None
    if plan is not None:
        end_ids = frozenset(base.encoder.end_ids)
        sampler = EqualLengthSampler(base.model, end_ids, plan.max_tokens, plan.temperature)
    n_rows = recipe.rows // recipe.micro_batches
    data = recipe.data
    order = row_order(data, rows=recipe.rows, seed=recipe.seed, row_tokens=data.row_tokens, layout="padded")
    return DistilLoader(prepared.training, order, rows_per_batch=n_rows, on_policy=plan, sampler=sampler)


def _assemble(
    resolved: DistilResolved,
    prepared: Prepared,
    folder: RunFolder,
    metrics: Metrics,
    on_event: Callable[[str], None],
) -> tuple[Run, GuardedRun, DistilLoader]:
    recipe = resolved.recipe
    loader = _loader(recipe, prepared)
    n_steps = steps_of(recipe, loader.rows_per_epoch)
    model = prepared.base.model
    state = trained_state(model, recipe, resolved.lora)
    passes = DistilPasses(model, prepared.teacher, recipe.loss)
    state.passes = passes
    hooks: dict[str, Hook] = {
        "metrics": metrics,
        "divergences": RewardsHook(folder.path / DIVERGENCES_FILE, passes),
        "curves": CurvesHook(folder.metrics, folder.path, every=50, metrics=metrics),
    }
    factor = schedule(recipe.schedule.over(n_steps))
    return *guarded_run(recipe, state, loader, n_steps, factor, folder, on_event, hooks), loader


def _finish(
    resolved: DistilResolved,
    prepared: Prepared,
    run: Run,
    loader: DistilLoader,
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
        if prepared.held_back is not None:
            told("measuring on held-back examples")
            teacher = prepared.teacher
            asked = load_teacher(resolved, prepared.base) if isinstance(teacher, StoredTeacher) else teacher
            evaluation = Evaluation(before=prepared.before, after=measured(model, asked, prepared.held_back))
    write_curves(folder.metrics, folder.path)
    parts += [METRICS_FILE, DIVERGENCES_FILE, CURVES_FILE, PLOT_FILE]
    record = StageRecord(
        kind="distilled",
        name=recipe.name,
        what=(
            f"Distillation of {resolved.teacher.name} into {prepared.start.parent.name} ({_manner(recipe)}), "
            f"{moved_weights(resolved.lora)}: {run.state.step:,} steps of {recipe.rows} replies, from "
            f"{prepared.training.n_examples:,} examples."
        ),
        parents=(prepared.start.parent, resolved.teacher),
        base_sha256=prepared.start.sha256,
        recipe=resolved.portable,
        recipe_sha256=resolved.fingerprint,
        seed=recipe.seed,
        data=prepared.manifest,
        evaluation=evaluation,
        metrics=training_metrics(run.state, model, loader.report()["n_tokens"], folder),
        versions=versions() | machine_facts(next(model.parameters()).device),
    )
    stage = seal(folder.path, record, parts)
    display.say(f"{folder.path}: {record.what}")
    earlier = {each.name: each for each in evaluation.before}
    for each in evaluation.after:
        display.say(f"  {each.name}: {shown(each)}, before {shown(earlier.get(each.name))}")
    return stage


def _manner(recipe: DistilRecipe) -> str:
    whose = "off policy" if recipe.on_policy is None else f"{recipe.on_policy.share:.0%} on policy"
    kept = "" if recipe.top_k is None else f", {recipe.top_k} tokens of each place kept"
    return f"{recipe.loss.name}, {whose}{kept}"
