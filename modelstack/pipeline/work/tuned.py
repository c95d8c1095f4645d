"""Shared part of the three post-trainings: run the step's own training, and report its stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from modelstack.pipeline.job import StepJob
from modelstack.pipeline.recipe import checked_section
from modelstack.pipeline.record import StepResult
from modelstack.posttrain.stages.card import shown
from modelstack.posttrain.stages.stage import ADAPTER, ADAPTER_GGUF, MODEL, Stage

MANY_REJECTED = 0.02
"""Share of the steps above which rejected ones are told."""


def tuned(
    job: StepJob, run: Callable[[Any, Path, Console], Stage | None], filled: Mapping[str, Any]
) -> StepResult | None:
    """Run or resume a training on the newest model; None: a stop was requested.

    Args:
        job: The step, whose name is that of its table in the recipe.
        run: The training of the step's package.
        filled: Keys of its recipe that the pipeline fills in.

    Raises:
        UserError: The recipe does not fit the model or the data.
    """
    name = job.step.name
    recipe = checked_section(
        job.recipe, name, {"name": name, "seed": job.recipe.seed, "base": job.model, **filled}
    )
    stage = run(recipe, job.folder, job.console)
    if stage is None:
        return None
    before = {each.name: each for each in stage.record.evaluation.before}
    figures = [f"{each.name} {each.value:.4f}" for each in stage.record.evaluation.after[:2]]
    rows = [(each.name, shown(before.get(each.name)), shown(each)) for each in stage.record.evaluation.after]
    facts = {key: value for key, value in stage.record.metrics.items() if key in ("steps", "tokens")}
    return StepResult(
        what=f"{facts.get('steps', 0):,} steps: {', '.join(figures) or stage.record.what}",
        content=tuple(part for part in (ADAPTER, ADAPTER_GGUF, MODEL) if (stage.path / part).exists()),
        facts=facts,
        model=".",
        table=(("figure", "before", "after"), *rows),
        notes=notes_on_steps(job.folder),
    )


def notes_on_steps(folder: Path) -> tuple[str, ...]:
    """Return a sentence if the guard rejected many steps: its thresholds may not fit batches of several kinds."""
    from modelstack.stability.run_events import EVENTS_FILE, Stepped, read_events

    steps = [event for event in read_events(folder / EVENTS_FILE) if isinstance(event, Stepped)]
    n = sum(step.is_rejected for step in steps)
    if n <= MANY_REJECTED * len(steps):
        return ()
    return (f"the guard rejected {n} of {len(steps):,} steps: look at the losses, and at the keys `guard`",)
