"""Plan of a pipeline as text: hours, memory, disk and money of each step, and for 1,000 times the size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from modelstack.architecture.counts.table import quantity
from modelstack.decide.budget import bill
from modelstack.decide.devices import find_device
from modelstack.pipeline.planning import (
    SCALE,
    Machine,
    n_parameters,
    planned_costs,
    post_training_flops,
    scaled_dry_run,
    scaled_plan,
)
from modelstack.pipeline.recipe import PipelineRecipe
from modelstack.pipeline.steps import STEPS


def dry_run_lines(recipe: PipelineRecipe, folder: Path) -> Iterator[str]:
    """Yield the lines of the plan.

    Args:
        recipe: The recipe.
        folder: Folder of the run; its disk is looked at.

    Raises:
        UserError: The recipe cannot be planned.
    """
    costs, machine = planned_costs(recipe), Machine.here(folder)
    device = find_device(recipe.decide.device)
    yield f"plan of {recipe.name} on {device.name}: {n_parameters(recipe):,.0f} parameters"
    yield f"{'':2} {'step':13} {'time':>10} {'memory':>10} {'disk':>10}"
    for step in STEPS:
        cost = costs[step.name]
        if step.name in recipe.skipped:
            yield f"{step.number:2} {step.name:13} {'skipped':>10}"
            continue
        memory, disk = quantity(cost.memory_bytes, "B"), quantity(cost.disk_bytes, "B")
        yield f"{step.number:2} {step.name:13} {_time(cost.seconds):>10} {memory:>10} {disk:>10}"
    seconds = sum(cost.seconds for cost in costs.values())
    memory = max(cost.memory_bytes for cost in costs.values())
    disk = sum(cost.disk_bytes for cost in costs.values())
    hours = seconds / 3600
    yield (
        f"all: {_time(seconds)}, {quantity(memory, 'B')} of memory at most, {quantity(disk, 'B')} of disk, "
        f"{hours * device.watts / 1000:.3g} kWh, {hours * device.usd_per_hour:.2g} USD"
    )
    yield from _here(machine, memory, disk, hours, recipe)
    yield from _scaled(recipe, post_training_flops(costs))


def _here(machine: Machine, memory: float, disk: float, hours: float, recipe: PipelineRecipe) -> Iterator[str]:
    yield (
        f"this machine: {machine.cores} cores, {quantity(machine.memory_bytes, 'B')} of memory, "
        f"{quantity(machine.free_disk_bytes, 'B')} of disk free"
    )
    is_here = recipe.decide.device.startswith("cpu")
    if is_here and memory > machine.memory_bytes:
        yield f"- it has less memory than the {quantity(memory, 'B')} that a step needs"
    device = find_device(recipe.decide.device)
    if not is_here and memory > device.memory_bytes:
        yield f"- {device.name} has {quantity(device.memory_bytes, 'B')} of memory: less than a step needs"
    if disk > machine.free_disk_bytes:
        yield f"- its disk has less room than the {quantity(disk, 'B')} of the run"
    if hours > recipe.decide.hours:
        yield f"- decide.hours is {recipe.decide.hours:g}, and the steps take about {hours:.2g} h"


def _scaled(recipe: PipelineRecipe, post_flops: float) -> Iterator[str]:
    """Yield the plan for a model of 1,000 times the parameters."""
    plan = scaled_plan(recipe)
    device, n = find_device(recipe.decide.scale_device), recipe.decide.scale_devices
    yield (
        f"{SCALE:,} times the size: {plan.model.n_parameters:,} parameters, {plan.n_tokens:,} tokens on {n} x "
        f"{device.name}"
    )
    after = bill(SCALE * post_flops, device, "bf16", 0.4, n)
    for name, cost in (("training from scratch", plan.training), ("steps 7 to 12", after)):
        yield f"  {name}: {cost.hours:,.3g} h, {cost.energy_kwh:,.3g} kWh, {cost.usd:,.3g} USD"
    yield (
        f"  memory of a device: {quantity(plan.memory.total, 'B')} of {quantity(device.memory_bytes, 'B')}, "
        f"layout {plan.layout.model_dump_json(exclude_defaults=True)}"
    )
    if plan.memory.total > device.memory_bytes:
        yield f"- that is more than a device has: raise decide.scale_devices above {n}"
        return
    yield "  spread over the ranks without devices:"
    for line in scaled_dry_run(plan).splitlines():
        yield f"    {line}"
    yield "  by: modelstack data run --on ray; torchrun -m modelstack train; pool= of modelstack reinforce"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
