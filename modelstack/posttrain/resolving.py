"""Values that a recipe leaves open: path and hash of its base, hashes of its files, form of its adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelstack.errors import UserError
from modelstack.files import sha256_of
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.files import read_adapter
from modelstack.posttrain.recipe import TuningFiles, TuningRecipe
from modelstack.posttrain.stages.stage import ADAPTER, Stage
from modelstack.posttrain.starting_point import StartingPoint


def resolved_parts(recipe: TuningRecipe, start: StartingPoint) -> dict[str, Any]:
    """Return the fields of a `TuningResolved` for a recipe.

    Raises:
        UserError: A continued adapter would get another form, or a training file is missing.
    """
    lora = resolved_lora(recipe, start)
    return {
        "recipe": recipe,
        "weights": str(start.weights.resolve()),
        "base_sha256": start.sha256,
        "parent": start.parent,
        "lora": lora,
        "data_sha256": hashes_of("data.training", recipe.data),
    }


def hashes_of(key: str, files: TuningFiles) -> tuple[str, ...]:
    """Return the SHA-256 of each training file; `key` names them in an error.

    Raises:
        UserError: A file is missing.
    """
    paths = [file.path for file in files.training]
    if missing := [path for path in paths if not Path(path).is_file()]:
        raise UserError(f"{key}: {missing[0]} is not there")
    return tuple(map(sha256_of, paths))


def resolved_lora(recipe: TuningRecipe, start: StartingPoint) -> LoraConfig | None:
    """Return the form of the trained adapter; None: all weights are trained.

    Raises:
        UserError: A continued adapter would get another form, or all weights would move under it.
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
    """Return the form of a stage's adapter, from its recipe if possible, which knows more than peft's file."""
    told = stage.record.recipe.get("lora")
    return LoraConfig.model_validate(told) if told else read_adapter(stage.path / ADAPTER).config
