"""A distillation from its recipe to a stage, on fine-tuning's loop, guard and checkpoints.

The stage is of the kind `distilled`; its parents are the student as it was and the teacher.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from rich.console import Console

from modelstack.architecture.decoder import CausalLM
from modelstack.posttrain.driver import TuningPlace, claimed, guarded_run, steps_of, take_steps, tuning_place
from modelstack.posttrain.resolving import resolved_parts
from modelstack.posttrain.sealing import moved_weights, seal_training, write_trained
from modelstack.posttrain.stages.record import Evaluation
from modelstack.posttrain.stages.stage import Stage
from modelstack.posttrain.starting_point import starting_point
from modelstack.posttrain.values_hook import RewardsHook
from modelstack.reasoning.distil.loader import DistilLoader
from modelstack.reasoning.distil.measure import measured
from modelstack.reasoning.distil.passes import DistilPasses
from modelstack.reasoning.distil.prepare import Prepared, load_teacher, prepare
from modelstack.reasoning.distil.recipe import FREE, DistilRecipe, DistilResolved
from modelstack.reasoning.distil.stored_teacher import StoredTeacher
from modelstack.reasoning.sampling.equal_length_sampler import EqualLengthSampler
from modelstack.sft.assemble import trained_state
from modelstack.sft.loader import row_order
from modelstack.stability.supervisor import GuardedRun
from modelstack.train.curves import CurvesHook
from modelstack.train.loop import Hook, Run
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
    with tuning_place(recipe, path, console) as place:
        return _distil(recipe, place)


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


def _distil(recipe: DistilRecipe, place: TuningPlace) -> Stage | None:
    resolved = resolve(recipe)
    if finished := claimed(resolved, place, FREE):
        return finished
    with place.display.preparing() as told:
        prepared = prepare(resolved, starting_point(recipe.base, recipe.weights), place.path, told)
    run, supervisor, loader = _assemble(resolved, prepared, place)
    if not take_steps(run, supervisor, place.display):
        return None
    return _finish(resolved, prepared, run, loader, place)


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
    resolved: DistilResolved, prepared: Prepared, place: TuningPlace
) -> tuple[Run, GuardedRun, DistilLoader]:
    recipe = resolved.recipe
    loader = _loader(recipe, prepared)
    n_steps = steps_of(recipe, loader.rows_per_epoch)
    model = prepared.base.model
    state = trained_state(model, recipe, resolved.lora)
    passes = DistilPasses(model, prepared.teacher, recipe.loss)
    state.passes = passes
    hooks: dict[str, Hook] = {
        "metrics": place.metrics,
        "divergences": RewardsHook(place.path / DIVERGENCES_FILE, passes),
        "curves": CurvesHook(place.folder.metrics, place.path, every=50, metrics=place.metrics),
    }
    factor = schedule(recipe.schedule.over(n_steps))
    return *guarded_run(recipe, state, loader, n_steps, factor, place.folder, place.event, hooks), loader


def _finish(
    resolved: DistilResolved, prepared: Prepared, run: Run, loader: DistilLoader, place: TuningPlace
) -> Stage:
    """Write, measure and seal; done again from the last checkpoint where a process is killed meanwhile."""
    recipe, model = resolved.recipe, cast(CausalLM, run.state.model)
    evaluation = Evaluation()
    with place.display.preparing() as told:
        told("writing what was trained")
        parts = write_trained(model, prepared.base.tokenizer, resolved, place.path)
        if prepared.held_back is not None:
            told("measuring on held-back examples")
            teacher = prepared.teacher
            asked = load_teacher(resolved, prepared.base) if isinstance(teacher, StoredTeacher) else teacher
            evaluation = Evaluation(before=prepared.before, after=measured(model, asked, prepared.held_back))
    return seal_training(
        resolved,
        run,
        model,
        place,
        kind="distilled",
        what=(
            f"Distillation of {resolved.teacher.name} into {resolved.parent.name} ({_manner(recipe)}), "
            f"{moved_weights(resolved.lora)}: {run.state.step:,} steps of {recipe.rows} replies, from "
            f"{prepared.training.n_examples:,} examples."
        ),
        data=prepared.manifest,
        evaluation=evaluation,
        n_tokens=loader.report()["n_tokens"],
        parts=[*parts, DIVERGENCES_FILE],
    )


def _manner(recipe: DistilRecipe) -> str:
    whose = "off policy" if recipe.on_policy is None else f"{recipe.on_policy.share:.0%} on policy"
    kept = "" if recipe.top_k is None else f", {recipe.top_k} tokens of each place kept"
    return f"{recipe.loss.name}, {whose}{kept}"
