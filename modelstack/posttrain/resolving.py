"""Values that a recipe leaves open: path and hash of the base, hashes of the data files, form of the adapter."""

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
        UserError: The recipe asks for another form of a continued adapter, or a training file is missing.
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
        raise UserError(f"{key}: file {missing[0]} is missing")
    return tuple(map(sha256_of, paths))


def resolved_lora(recipe: TuningRecipe, start: StartingPoint) -> LoraConfig | None:
    """Return the form of the trained adapter, or None if all weights are trained.

    Raises:
        UserError: The base is an adapter, and the recipe asks for another form of it or for training all weights.
    """
    if start.stage is None:
        return None if recipe.train == "full" else recipe.lora or LoraConfig()
    own = _lora_of(start.stage)
    if recipe.train == "full":
        raise UserError(f"base {recipe.base} is an adapter and train = 'full' moves all weights: merge it first")
    if recipe.lora not in (None, own):
        raise UserError(
            f"base {recipe.base} is an adapter with {own!r}, the recipe's lora is {recipe.lora!r}: leave the "
            f"table out to continue this adapter, or merge the stage and train a new adapter on the result"
        )
    return own


def _lora_of(stage: Stage) -> LoraConfig:
    """Return the form of a stage's adapter.

    The recipe is preferred because it holds more than peft's file.
    """
    told = stage.record.recipe.get("lora")
    return LoraConfig.model_validate(told) if told else read_adapter(stage.path / ADAPTER).config
