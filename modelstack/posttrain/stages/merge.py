"""Merge the adapter of a stage into its base: a new stage with a whole model, in bf16 and optionally as GGUF.

There is no training, so the new stage has its parent's lineage and no data of its own. It has no measurements: a
merged model that is rounded to few bits differs from the adapter on its base, and has to be measured separately.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from modelstack.errors import UserError
from modelstack.posttrain.lora.merge import merge_adapter, write_merged_folder, write_merged_gguf
from modelstack.posttrain.stages.record import StageRecord, canonical
from modelstack.posttrain.stages.stage import ADAPTER, MODEL, MODEL_GGUF, Stage, is_stage, seal
from modelstack.posttrain.starting_point import starting_point


def merge_stage(folder: Path, out: Path, *, weights: Path | None = None, gguf_type: str | None = None) -> Stage:
    """Write the merged model of a stage with an adapter as a new stage.

    Args:
        folder: Folder of the stage.
        out: Folder of the new stage.
        weights: Base weights of the adapter; None: the path recorded by its run.
        gguf_type: Number type of an additional file for llama.cpp; None: no such file.

    Raises:
        UserError: The stage is damaged or has no adapter, its base is missing, or `out` is already a stage.
    """
    if is_stage(out):
        raise UserError(f"{out} is already a stage, and a stage never changes: give another folder")
    start = starting_point(folder, weights)
    if start.stage is None:
        raise UserError(f"{folder} is not a stage with an adapter: only adapters can be merged")
    recipe = {"merged": start.parent.name, "gguf_type": gguf_type}
    merged = merge_adapter(start.weights, start.stage.path / ADAPTER)
    out.mkdir(parents=True, exist_ok=True)
    name = f"{start.parent.name}-merged"
    parts = [MODEL]
    write_merged_folder(merged, out / MODEL, dtype=torch.bfloat16)
    if gguf_type is not None:
        write_merged_gguf(merged, out / MODEL_GGUF, type_name=gguf_type, name=name)
        parts.append(MODEL_GGUF)
    record = StageRecord(
        kind="merged",
        name=name,
        what=f"{start.parent.name} merged into its base, in bf16{f' and {gguf_type}' if gguf_type else ''}.",
        parents=(start.parent,),
        base_sha256=start.sha256,
        recipe=recipe,
        recipe_sha256=hashlib.sha256(canonical(recipe).encode()).hexdigest(),
    )
    return seal(out, record, parts)
