"""Stages to merge: children of one toy base, as models and as adapters, made without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from modelstack.architecture.checkpoint import load_checkpoint, save_checkpoint
from modelstack.posttrain.base import load_base
from modelstack.posttrain.base_hash import base_sha256
from modelstack.posttrain.lora.adapters import add_lora
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.files import save_adapter
from modelstack.posttrain.stages.record import Origin, StageRecord
from modelstack.posttrain.stages.stage import Stage, seal
from modelstack.reasoning.merging.recipe import MergeRecipe
from modelstack.reasoning.merging.run import merge
from tests.modelstack.posttrain.lora_models import stir


def model_stage(folder: Path, base: Path, seed: int, dtype: torch.dtype = torch.float32) -> Stage:
    """Write a stage with a model, the base with every number moved; its name is the folder's."""
    model = load_checkpoint(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    save_checkpoint(model, folder / "model", tokenizer=base, dtype=dtype)
    return _sealed(folder, base, "model")


def adapter_stage(folder: Path, base: Path, seed: int, **keys: Any) -> Stage:
    """Write a stage with an adapter; its name is the folder's."""
    config = LoraConfig.model_validate({"rank": 4, "alpha": 6.0} | keys)
    model = load_base(base).model
    add_lora(model, config)
    stir(model, seed)
    save_adapter(model, config, folder / "adapter", base_sha256=base_sha256(base))
    return _sealed(folder, base, "adapter")


def toy_merge(out: Path, method: str, parents: list[Path], base: Path | None = None, **keys: Any) -> Stage:
    """Run a merge quietly; it is called as its folder is."""
    paths = [str(path) for path in parents]
    values = {"name": out.name, "method": method, "parents": paths, "base": None if base is None else str(base)}
    return merge(MergeRecipe.model_validate(values | keys), out, Console(quiet=True))


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder that belongs to a stage."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name not in (".lock", "recipe.json"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def _sealed(folder: Path, base: Path, part: str) -> Stage:
    sha256 = base_sha256(base)
    record = StageRecord(
        kind="sft",
        name=folder.name,
        what="A toy.",
        parents=(Origin(kind="base", name=base.name, sha256=sha256),),
        base_sha256=sha256,
        recipe_sha256=sha256,
    )
    return seal(folder, record, [part])
