"""Starting point of a training: the weights, the parent of the new stage, and the adapter to continue, if any.

A base is a GGUF file, a checkpoint folder, or a stage. A stage with a model is trained as any checkpoint is. A
stage with an adapter is continued: the adapter keeps its rank and targets, on the weights that it was trained on,
which are identified by their hash wherever they lie.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from modelstack.errors import UserError
from modelstack.posttrain.base import Base, base_sha256, load_base, require_same_base
from modelstack.posttrain.lora.adapters import add_lora, load_lora_state
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.files import read_adapter
from modelstack.posttrain.recipe import TuningRecipe
from modelstack.posttrain.stages.record import Origin
from modelstack.posttrain.stages.stage import ADAPTER, MODEL, Stage, is_stage, open_stage
from modelstack.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """Weights that a training begins with."""

    weights: Path
    """A GGUF file or a checkpoint folder."""
    sha256: str
    parent: Origin
    stage: Stage | None = None
    """Stage with the adapter to continue; None: a new adapter, or all weights."""


def starting_point(base: str | Path, weights: str | Path | None = None) -> StartingPoint:
    """Find the weights, and the adapter, that a base names.

    Args:
        base: A GGUF file, a checkpoint folder or the folder of a stage.
        weights: Base weights of a stage that is an adapter; None: the path recorded by its run.

    Raises:
        UserError: The base is not there, a stage is damaged, or its base is not to be found or is another.
    """
    path = Path(base)
    stage = open_stage(path) if is_stage(path) else None
    if (stage is None or not (path / ADAPTER).is_dir()) and weights is not None:
        raise UserError(f"weights = {str(weights)!r} is for a base that is a stage with an adapter: leave it out")
    if stage is None:
        sha256 = base_sha256(path)
        return StartingPoint(path, sha256, Origin(kind="base", name=_name(path), sha256=sha256))
    if not (path / ADAPTER).is_dir():
        model = path / MODEL
        return StartingPoint(model, base_sha256(model), stage.origin)
    found = Path(weights) if weights is not None else _weights_of(path)
    require_same_base(stage.record.base_sha256, base_sha256(found))
    return StartingPoint(found, stage.record.base_sha256, stage.origin, stage)


def _weights_of(stage: Path) -> Path:
    """Return the path of the base weights that a stage's run recorded."""
    file = RunFolder(stage).recipe
    try:
        weights = Path(json.loads(file.read_text(encoding="utf-8"))["resolved"]["weights"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"stage {stage} is an adapter and does not say where its base lies ({file.name}: {error!r}): name the "
            f"GGUF file or checkpoint folder with weights=PATH"
        ) from error
    if not weights.exists():
        raise UserError(f"stage {stage} was trained on {weights}, which is not there: name it with weights=PATH")
    return weights


def _name(path: Path) -> str:
    """Return the name of a base without a record: of the run's folder, not of `model` in it."""
    resolved = path.resolve()
    return resolved.parent.name if resolved.name == MODEL and path.is_dir() else resolved.name


def load_start(recipe: TuningRecipe, lora: LoraConfig | None, start: StartingPoint) -> Base:
    """Return the base with what is trained on it: a new adapter, the stage's adapter, or all weights.

    Raises:
        UserError: The base cannot be read, or the adapter does not fit it.
    """
    torch.manual_seed(recipe.seed)  # of dropout; all other randomness has generators of its own
    # Weights that are trained stay fp32 until the optimizer has its masters of them.
    dtype = torch.bfloat16 if lora is not None and recipe.precision == "bf16" else torch.float32
    base = load_base(start.weights, dtype=dtype)
    if lora is not None:
        add_lora(base.model, lora)
        if start.stage is not None:
            load_lora_state(base.model, read_adapter(start.stage.path / ADAPTER).state)
    base.model.to(device_kind(recipe))
    return base


def device_kind(recipe: TuningRecipe) -> Literal["cpu", "cuda"]:
    """Return the kind of device that a recipe trains on."""
    if recipe.device != "auto":
        return recipe.device
    return "cuda" if torch.cuda.is_available() else "cpu"
