"""What a recipe leaves open: where its base lies, what it is by its hash, and the form of the adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelstack.errors import UserError
from modelstack.files import sha256_of
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.files import read_adapter
from modelstack.posttrain.recipe import TuningRecipe
from modelstack.posttrain.stages.stage import ADAPTER, Stage
from modelstack.posttrain.starting_point import StartingPoint


def resolved_parts(recipe: TuningRecipe, start: StartingPoint) -> dict[str, Any]:
    """Return what a recipe leaves open, as fields of a `TuningResolved`.

    Raises:
        UserError: An adapter that is gone on with is to have another form, or a training file is not there.
    """
    lora = resolved_lora(recipe, start)
    missing = [file.path for file in recipe.data.training if not Path(file.path).is_file()]
    if missing:
        raise UserError(f"data.training: {missing[0]} is not there")
    return {
        "recipe": recipe,
        "weights": str(start.weights.resolve()),
        "base_sha256": start.sha256,
        "parent": start.parent,
        "lora": lora,
        "data_sha256": tuple(sha256_of(file.path) for file in recipe.data.training),
    }


def resolved_lora(recipe: TuningRecipe, start: StartingPoint) -> LoraConfig | None:
    """Return the form of the adapter that is trained; None: all weights are.

    Raises:
        UserError: An adapter that is gone on with is to have another form, or all weights are to move under it.
    """
    if start.stage is None:
        return None if recipe.train == "full" else recipe.lora or LoraConfig()
    own = _lora_of(start.stage)
    if recipe.train == "full":
        raise UserError(f"base {recipe.base} is an adapter and train = 'full' moves all weights: merge it first")
    if recipe.lora not in (None, own):
        raise UserError(
            f"base {recipe.base} is an adapter with {own!r}, the recipe's lora is {recipe.lora!r}: leave the "
            f"table out to go on with it, or merge the stage and train a new adapter on that"
        )
    return own


def _lora_of(stage: Stage) -> LoraConfig:
    """Return what a stage's adapter was made with: its recipe knows more than peft's file."""
    told = stage.record.recipe.get("lora")
    return LoraConfig.model_validate(told) if told else read_adapter(stage.path / ADAPTER).config
