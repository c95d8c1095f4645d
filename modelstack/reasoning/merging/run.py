"""Runs a merge from recipe to stage; a run that was killed and repeated writes the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from rich.console import Console

from modelstack.errors import UserError
from modelstack.posttrain.base import load_base
from modelstack.posttrain.lora.merge import Merged, write_merged_gguf
from modelstack.posttrain.stages.record import StageRecord
from modelstack.posttrain.stages.stage import (
    ADAPTER,
    ADAPTER_GGUF,
    MODEL,
    MODEL_GGUF,
    Stage,
    is_stage,
    open_stage,
    seal,
)
from modelstack.reasoning.merging.adapters import merge_into_adapter, merge_into_base
from modelstack.reasoning.merging.low_rank import Factors, kept_share
from modelstack.reasoning.merging.models import Advanced, merge_models
from modelstack.reasoning.merging.parents import Parents, find_parents
from modelstack.reasoning.merging.recipe import FREE, READS, MergeRecipe, MergeResolved
from modelstack.run_folder import RunFolder, claim
from modelstack.terminal.progress_bars import progress_bars
from modelstack.train.run.progress import Display
from modelstack.train.run.report import machine_facts

Metrics = dict[str, float | int | str]


def merge(recipe: MergeRecipe, out: Path, console: Console) -> Stage:
    """Merge the parents of a recipe, or open the stage if it is already finished.

    Args:
        recipe: Merge method, parents and settings.
        out: Folder of the stage.
        console: Console for progress and results.

    Raises:
        UserError: The parents are incompatible, or the folder holds another merge.
    """
    folder, display = RunFolder(out), Display(console)
    parents = find_parents(recipe)
    start = parents.base or parents.starts[0]
    resolved = MergeResolved(
        recipe=recipe,
        weights=str(start.weights.resolve()),
        base_sha256=start.sha256,
        parents=parents.origins,
        base=None if parents.base is None else parents.base.parent,
    )
    if is_stage(out) and not folder.recipe.exists():
        raise UserError(f"{out} is already a stage, and stages are immutable: give another --out")
    with folder.held():
        if folder.recipe.exists():  # claimed before anything is changed: a folder of another merge is refused
            claim(folder.recipe, resolved, resolved.fingerprint, free=FREE, layout=set())
        if is_stage(out):
            display.say(f"{out} is already finished")
            return open_stage(out)
        _remove_leftovers(out)
        with progress_bars(console) as told:
            parts, metrics = _write(recipe, parents, out, lambda done, total: told("merging", done, total))
        # Claimed only now, so that a recipe that failed can be corrected in the same folder.
        claim(folder.recipe, resolved, resolved.fingerprint, free=FREE, layout=set())
        stage = seal(out, _record(resolved, parents, metrics), parts)
    display.say(f"{out}: {stage.record.what}")
    for name, value in metrics.items():
        shown = value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        display.say(f"  {name}: {shown}")
    return stage


def _write(recipe: MergeRecipe, parents: Parents, out: Path, advanced: Advanced) -> tuple[list[str], Metrics]:
    """Write the merged weights; return the parts of the stage and its metrics."""
    if recipe.rank is not None:
        factors = merge_into_adapter(recipe, parents, recipe.rank, out, advanced)
        return [ADAPTER, ADAPTER_GGUF], _kept(factors)
    write = merge_into_base if parents.are_adapters else merge_models
    parts, metrics = [MODEL], Metrics(parameters=write(recipe, parents, out / MODEL, advanced))
    if recipe.gguf is not None:
        written = load_base(out / MODEL)
        merged = Merged(written.model, written.tokenizer)
        write_merged_gguf(merged, out / MODEL_GGUF, type_name=recipe.gguf, name=recipe.name)
        parts.append(MODEL_GGUF)
    return parts, metrics


def _kept(factors: dict[str, Factors]) -> Metrics:
    least = min(factors, key=lambda name: factors[name].kept)
    return {
        "layers": len(factors),
        "share of the updates' norm that the rank keeps": round(kept_share(factors), 6),
        "least share of a layer": round(factors[least].kept, 6),
        "layer with the least share": least,
    }


def _record(resolved: MergeResolved, parents: Parents, metrics: Metrics) -> StageRecord:
    recipe = resolved.recipe
    return StageRecord(
        kind="merged",
        name=recipe.name,
        what=_what(recipe, parents),
        parents=resolved.parents,
        base_sha256=resolved.base_sha256,
        recipe=resolved.portable,
        recipe_sha256=resolved.fingerprint,
        seed=recipe.seed,
        metrics=metrics,
        versions=machine_facts(torch.device("cpu")),
    )


def _what(recipe: MergeRecipe, parents: Parents) -> str:
    names = [start.parent.name for start in parents.starts]
    if "weights" in READS[recipe.method]:
        names = [f"{name} (weight {weight:g})" for name, weight in zip(names, recipe.weight_of_each, strict=True)]
    what = "LoRA adapters" if parents.are_adapters else "Models"
    told = f"{what} {' and '.join(names)} merged by {recipe.method}"
    if recipe.method == "slerp":
        told += f" at t = {recipe.t:g}"
    if parents.base is None:
        return f"{told}."
    base = parents.base.parent.name
    if not parents.are_adapters:
        return f"{told}, over their base {base}."
    into = f"an adapter of rank {recipe.rank} on {base}" if recipe.rank is not None else f"their base {base}"
    return f"{told} (full updates B A) into {into}."


def _remove_leftovers(out: Path) -> None:
    """Remove temporary files and folders left by killed processes."""
    for part in (MODEL, ADAPTER):
        for left in out.glob(f".{part}.*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
