"""Loads a model for inference only: a teacher, or a policy whose replies are sampled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from modelstack.posttrain.base import Base, load_base
from modelstack.posttrain.lora.adapters import add_lora, load_lora_state, merge_lora
from modelstack.posttrain.lora.files import read_adapter
from modelstack.posttrain.stages.stage import ADAPTER
from modelstack.posttrain.starting_point import StartingPoint

Precision = Literal["bf16", "fp32"]
Device = Literal["auto", "cpu", "cuda"]


def load_frozen(start: StartingPoint, *, precision: Precision, device: Device) -> Base:
    """Return the model of a starting point, with a stage's adapter applied to its base.

    Raises:
        UserError: The model cannot be read, or the adapter does not fit the base.
    """
    base = load_base(start.weights, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    if start.stage is not None:
        adapter = read_adapter(Path(start.stage.path) / ADAPTER)
        add_lora(base.model, adapter.config)
        load_lora_state(base.model, adapter.state)
    return _frozen(base, device)


def load_merged(start: StartingPoint, *, precision: Precision, device: Device) -> Base:
    """Return what `load_frozen` does, with the adapter merged into plain layers.

    Raises:
        UserError: The model cannot be read, or the adapter does not fit the base.
    """
    base = load_frozen(start, precision=precision, device=device)
    if start.stage is None:
        return base
    dtype = base.model.lm_head.weight.dtype
    return _frozen(replace(base, model=merge_lora(base.model, dtype)), device)


def _frozen(base: Base, device: Device) -> Base:
    base.model.requires_grad_(False)
    base.model.eval()
    base.model.to(device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu"))
    return base
