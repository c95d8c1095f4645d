"""What llama.cpp is given, so that a fine-tuning is judged by what will be served: GGUF files, before and after.

A GGUF base is served as it is, an adapter on top of it. A checkpoint has no such file, nor has a model all of
whose weights were trained, and llama.cpp knows no DoRA: these are written out in f16, merged where need be.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelstack.architecture.decoder import CausalLM
from modelstack.posttrain.base import load_base
from modelstack.posttrain.lora.merge import Merged, merge_adapter, write_merged_gguf
from modelstack.posttrain.stages.stage import ADAPTER, ADAPTER_GGUF
from modelstack.posttrain.starting_point import StartingPoint
from modelstack.sft.prepare import Prepared
from modelstack.sft.recipe import SftResolved

TYPE = "f16"
"""Of the files that are written for the measurement alone."""


@dataclass(frozen=True, slots=True)
class Served:
    """What an engine loads."""

    model: Path
    adapter: Path | None = None


def served_before(start: StartingPoint, work: Path) -> Served:
    """Return the base, or the stage that was trained on.

    Args:
        start: What the training began with.
        work: A folder for files that are needed meanwhile.

    Raises:
        UserError: The base has no GGUF form.
    """
    if start.stage is None:
        return Served(_base_file(start, work))
    if (start.stage.path / ADAPTER_GGUF).is_file():
        return Served(_base_file(start, work), start.stage.path / ADAPTER_GGUF)
    return Served(_written(merge_adapter(start.weights, start.stage.path / ADAPTER), work / "before.gguf"))


def served_after(resolved: SftResolved, prepared: Prepared, model: CausalLM, stage: Path, work: Path) -> Served:
    """Return what was trained.

    Args:
        resolved: The recipe.
        prepared: What it began with.
        model: As it was trained.
        stage: Folder with the adapter's files.
        work: A folder for files that are needed meanwhile.

    Raises:
        UserError: The model has no GGUF form.
    """
    if (stage / ADAPTER_GGUF).is_file():
        return Served(_base_file(prepared.start, work), stage / ADAPTER_GGUF)
    whole = Merged(model.cpu(), prepared.base.tokenizer)
    if resolved.lora is not None:
        whole = merge_adapter(prepared.start.weights, stage / ADAPTER)
    return Served(_written(whole, work / "after.gguf"))


def _base_file(start: StartingPoint, work: Path) -> Path:
    if start.weights.is_file():
        return start.weights
    file = work / "base.gguf"
    if file.exists():
        return file
    base = load_base(start.weights)
    return _written(Merged(base.model, base.tokenizer), file)


def _written(merged: Merged, file: Path) -> Path:
    return write_merged_gguf(merged, file, type_name=TYPE).path
