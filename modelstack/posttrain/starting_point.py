"""Starting point of a training: the weights, the parent of the new stage, and the adapter to continue, if any.

A base is a GGUF file, a checkpoint folder or a stage. A stage with a model is trained like any checkpoint. A stage
with an adapter is continued: the adapter keeps its rank and targets and the base weights that it was trained on.
These are identified by their hash, so their path may change.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import OwnPart
from modelstack.errors import UserError
from modelstack.posttrain.base import Base, load_base
from modelstack.posttrain.base_hash import base_sha256, require_same_base
from modelstack.posttrain.lora.adapters import add_lora, draw_adapters, load_lora_state
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.files import read_adapter
from modelstack.posttrain.recipe import TuningRecipe
from modelstack.posttrain.stages.record import Origin
from modelstack.posttrain.stages.stage import ADAPTER, MODEL, Stage, is_stage, open_stage
from modelstack.posttrain.weights_by_name import weights_path
from modelstack.run_folder import RunFolder
from modelstack.train.parallel.materialise import allocate, own_part
from modelstack.train.parallel.mesh import Mesh, ParallelConfig
from modelstack.train.parallel.parallelize import parallelize


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """Weights that a training starts from."""

    weights: Path
    """Path of a GGUF file or a checkpoint folder."""
    sha256: str
    parent: Origin
    stage: Stage | None = None
    """Stage with the adapter to continue; None: train a new adapter, or all weights."""


def starting_point(base: str | Path, weights: str | Path | None = None) -> StartingPoint:
    """Return the weights, and the adapter if there is one, of a base.

    Args:
        base: A GGUF file, a checkpoint folder, the folder of a stage, or the name of a model in a catalog.
        weights: Base weights of a stage that is an adapter; None: the path recorded by its run.

    Raises:
        UserError: The base is missing, the stage is damaged, or the stage's base weights are missing or have
            another hash.
    """
    path = weights_path(base)
    stage = open_stage(path) if is_stage(path) else None
    if (stage is None or not (path / ADAPTER).is_dir()) and weights is not None:
        raise UserError(
            f"weights = {str(weights)!r} is only for a base that is a stage with an adapter: leave it out"
        )
    if stage is None:
        sha256 = base_sha256(path)
        return StartingPoint(path, sha256, Origin(kind="base", name=_name(path), sha256=sha256))
    if not (path / ADAPTER).is_dir():
        model = stage.weights
        return StartingPoint(model, base_sha256(model), stage.origin)
    found = weights_path(weights) if weights is not None else _weights_of(path)
    require_same_base(stage.record.base_sha256, base_sha256(found))
    return StartingPoint(found, stage.record.base_sha256, stage.origin, stage)


def _weights_of(stage: Path) -> Path:
    """Return the path of the base weights that a stage's run recorded."""
    file = RunFolder(stage).recipe
    try:
        weights = Path(json.loads(file.read_text(encoding="utf-8"))["resolved"]["weights"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"stage {stage} is an adapter and does not record the path of its base ({file.name}: {error!r}): name "
            f"the GGUF file or checkpoint folder with weights=PATH"
        ) from error
    if not weights.exists():
        raise UserError(
            f"stage {stage} was trained on {weights}, which is missing: name its new path with weights=PATH"
        )
    return weights


def _name(path: Path) -> str:
    """Return the name of a base without a record; for a folder `model`, the name of the run's folder around it."""
    resolved = path.resolve()
    return resolved.parent.name if resolved.name == MODEL and path.is_dir() else resolved.name


def load_start(
    recipe: TuningRecipe, lora: LoraConfig | None, start: StartingPoint, mesh: Mesh | None = None
) -> Base:
    """Load the base and prepare the trained part: a new adapter, the stage's adapter, or all weights.

    Args:
        recipe: The recipe.
        lora: Form of the adapter; None: all weights are trained.
        start: The weights and the adapter to continue.
        mesh: Processes that share the model, sharded by FSDP2. Each reads its share and holds no more than one
            tensor beside it. None: the whole model.

    Raises:
        UserError: The base cannot be read, or the adapter does not fit it.
    """
    torch.manual_seed(recipe.seed)  # for dropout; all other randomness has its own generators
    # Trained weights stay fp32 until the optimizer has copied them as its masters.
    dtype = torch.bfloat16 if lora is not None and recipe.precision == "bf16" else torch.float32
    if mesh is None:
        base = load_base(start.weights, dtype=dtype)
        if lora is not None:
            add_lora(base.model, lora)
        base.model.to(device_kind(recipe))
    else:
        base = load_base(start.weights, dtype=dtype, spread=partial(_spread, recipe=recipe, lora=lora, mesh=mesh))
        if lora is not None:
            draw_adapters(base.model, lora)
    if start.stage is not None:
        load_lora_state(base.model, read_adapter(start.stage.path / ADAPTER).state)
    return base


def _spread(
    model: CausalLM, recipe: TuningRecipe, lora: LoraConfig | None, mesh: Mesh
) -> Callable[[Tensor], OwnPart]:
    """Add the adapter to a model on the meta device, shard the model and give it memory; see `filling.Spread`."""
    if lora is not None:
        add_lora(model, lora)
    precision = "bf16" if computes_in_bf16(recipe, lora) else "fp32"
    parallelize(model, mesh, ParallelConfig(layout=mesh.layout, precision=precision))
    allocate(model, mesh.device)
    return own_part


def computes_in_bf16(recipe: TuningRecipe, lora: LoraConfig | None) -> bool:
    """Return whether fp32 masters are rounded to bf16 for the computation.

    Adapters are fp32 on a base that already has the compute type.
    """
    return lora is None and recipe.precision == "bf16"


def device_kind(recipe: TuningRecipe) -> Literal["cpu", "cuda"]:
    """Return the kind of device that a recipe trains on."""
    if recipe.device != "auto":
        return recipe.device
    return "cuda" if torch.cuda.is_available() else "cpu"
