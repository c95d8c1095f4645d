"""Step 5: the model from scratch, each step judged by the guard before it moves a weight."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelstack.pipeline.job import StepJob
from modelstack.pipeline.material.texts import held_out_share
from modelstack.pipeline.recipe import checked_section, fault_table
from modelstack.pipeline.record import StepResult

if TYPE_CHECKING:
    from modelstack.train.run.recipe import RunRecipe


def work(job: StepJob) -> StepResult | None:
    """Train the model, or resume; None: a stop was requested.

    Raises:
        UserError: The recipe does not fit its parts.
        TrainingStopped: The guard ended the run.
    """
    from modelstack.stability.fault_injection import read_ledgers
    from modelstack.train.run.launch import launch
    from modelstack.train.run.recipe import resolve

    recipe = training_recipe(job)
    if not launch(resolve(recipe), job.folder, None, job.console):
        return None
    training = json.loads((job.folder / "model" / "training.json").read_text(encoding="utf-8"))
    bits = training["held_out"]["bits_per_byte"]
    faults = read_ledgers(job.folder)
    survived = f"; survived {', '.join(f'{n} {kind}' for kind, n in faults.items())}" if faults else ""
    return StepResult(
        what=f"{training['steps']:,} steps, {training['n_tokens']:,} tokens: {bits:.4f} bits per byte{survived}",
        content=("model",),
        facts={"steps": training["steps"], "tokens": training["n_tokens"], "held-out bits per byte": bits},
        model="model",
    )


def training_recipe(job: StepJob, **changes: Any) -> RunRecipe:
    """Return the recipe of `modelstack train`, with text, tokenizer and the ablation's choice filled in.

    Raises:
        UserError: The result is not valid.
    """
    filled: dict[str, Any] = {
        "name": "train",
        "seed": job.recipe.seed,
        "data.text": [job.of("data/text").as_posix()],
        "data.held_out": held_out_share(job),
        "tokenizer": {"path": job.of("tokenizer/tokenizer").as_posix()},
    }
    if job.recipe.fault is not None and "faults" not in changes:
        filled["faults"] = [fault_table(job.recipe.fault)]
    recipe: RunRecipe = checked_section(job.recipe, "train", filled)
    chosen = _chosen(job)
    if chosen:
        assert recipe.model is not None  # the recipe has no plan
        model = recipe.model.model_copy(update={"config": {**recipe.model.config, **chosen}})
        recipe = recipe.model_copy(update={"model": model})
    return recipe.model_copy(update=changes)


def _chosen(job: StepJob) -> Mapping[str, Any]:
    if not job.has("architecture"):
        return {}
    return job.read_json("architecture/choice/choice.json")["changes"]
