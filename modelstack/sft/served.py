"""GGUF files for llama.cpp before and after a fine-tuning, so that the model is measured as it is served.

A GGUF base is served unchanged with the adapter as a separate file. Other models are written in f16, and merged if
necessary: a checkpoint, a model after full training, and a DoRA adapter, which llama.cpp does not support.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelstack.posttrain.base import Base, load_base
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.merge import Merged, merge_adapter, write_merged_gguf
from modelstack.posttrain.stages.stage import ADAPTER, ADAPTER_GGUF
from modelstack.posttrain.starting_point import StartingPoint

TYPE = "f16"
"""Number type of the files that are written for a measurement."""


@dataclass(frozen=True, slots=True)
class Served:
    """Files for an engine."""

    model: Path
    adapter: Path | None = None


def served_before(start: StartingPoint, work: Path) -> Served:
    """Return the files of the model before training.

    Args:
        start: Starting point of the training.
        work: Folder for temporary files.

    Raises:
        UserError: The base cannot be written as GGUF.
    """
    if start.stage is None:
        return Served(_base_file(start, work))
    if (start.stage.path / ADAPTER_GGUF).is_file():
        return Served(_base_file(start, work), start.stage.path / ADAPTER_GGUF)
    return Served(_written(merge_adapter(start.weights, start.stage.path / ADAPTER), work / "before.gguf"))


def served_after(start: StartingPoint, base: Base, lora: LoraConfig | None, stage: Path, work: Path) -> Served:
    """Return the files of the trained model.

    Args:
        start: Starting point of the training.
        base: The trained model and its tokenizer.
        lora: Form of the trained adapter; None: all weights were trained.
        stage: Folder with the adapter's files.
        work: Folder for temporary files.

    Raises:
        UserError: The model cannot be written as GGUF.
    """
    if (stage / ADAPTER_GGUF).is_file():
        return Served(_base_file(start, work), stage / ADAPTER_GGUF)
    whole = (
        Merged(base.model.cpu(), base.tokenizer) if lora is None else merge_adapter(start.weights, stage / ADAPTER)
    )
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
