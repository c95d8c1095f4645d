"""Step 1: what a scaling law advises for the hours at hand, and what every step of the recipe will cost."""

from __future__ import annotations

from pathlib import Path

from modelstack.pipeline.job import StepJob
from modelstack.pipeline.planning import Machine, model_config, planned_costs, training_plan
from modelstack.pipeline.recipe import checked_section
from modelstack.pipeline.record import StepResult, write_json
from modelstack.pipeline.steps import STEPS

PLAN_FOLDER, COSTS_FILE = "plan", "costs.json"


def work(job: StepJob) -> StepResult:
    """Write the plan of the training and the costs of all steps.

    Raises:
        UserError: The recipe cannot be planned.
    """
    costs, machine = planned_costs(job.recipe), Machine.here(Path())
    hours = sum(cost.seconds for cost in costs.values()) / 3600
    largest = max(cost.memory_bytes for cost in costs.values())
    notes: list[str] = []
    if hours > job.recipe.decide.hours:
        notes.append(f"the steps take about {hours:.1f} h, and decide.hours is {job.recipe.decide.hours:g}")
    if largest > machine.memory_bytes:
        notes.append(
            f"a step needs about {largest / 1e9:.1f} GB, and the machine has {machine.memory_bytes / 1e9:.1f} GB"
        )
    content = [COSTS_FILE]
    rows = {step.name: {"seconds": costs[step.name].seconds, "flops": costs[step.name].flops} for step in STEPS}
    write_json(job.folder / COSTS_FILE, rows)
    what = f"{hours * 60:.0f} min in all, {largest / 1e9:.1f} GB at most, on {job.recipe.decide.device}"
    facts: dict[str, float | int | str] = {"hours": round(hours, 3), "memory GB": round(largest / 1e9, 2)}
    if "train" not in job.recipe.skipped:
        content.append(PLAN_FOLDER)
        what = f"{_training(job, facts)}; {what}"
    return StepResult(what=what, content=tuple(content), facts=facts, notes=tuple(notes))


def _training(job: StepJob, facts: dict[str, float | int | str]) -> str:
    """Write the plan of the training; return how the recipe compares with it."""
    from modelstack.decide.plan_file import write_plan
    from modelstack.decide.plan_page import write_page
    from modelstack.decide.planner import resolve

    plan = training_plan(job.recipe)
    (job.folder / PLAN_FOLDER).mkdir(exist_ok=True)
    write_plan(plan, job.folder / PLAN_FOLDER)
    write_page(plan, resolve(plan.request), job.folder / "page")
    run = checked_section(job.recipe, "train")
    n_tokens = run.steps * run.rows * (run.data.row_tokens or 512)
    facts |= {
        "parameters": plan.model.n_parameters,
        "tokens": n_tokens,
        "tokens that the hours allow": plan.n_tokens,
        "expected loss": round(plan.loss, 3),
        "layers": model_config(job.recipe).num_hidden_layers,
    }
    return f"{plan.model.n_parameters:,} parameters on {n_tokens:,} tokens ({plan.n_tokens:,} would fit)"
