"""Memory and initial values of a model distributed on the meta device; each rank creates only its share.

A model is created without memory, cut and sharded as in training, and then gets its memory (as in torchtitan,
arXiv 2410.06511). No rank ever holds the whole model or a whole layer: values are drawn in chunks (`initialise`),
and equal bit for bit those of one process with the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import OwnPart, initialise

Model = TypeVar("Model", bound=CausalLM)


def materialise(
    model: Model, device: torch.device, seed: int, token_frequency_V: Sequence[float] | None = None
) -> Model:
    """Give a model or a pipeline stage memory and its initial values, in place; return it.

    Args:
        model: A model on the meta device, after `parallelize`.
        device: The device of this rank.
        seed: Seed of the whole model.
        token_frequency_V: Token frequencies by which hash routing assigns experts.
    """
    allocate(model, device)
    return initialise(model, seed, token_frequency_V, own_part=own_part)


def allocate(model: CausalLM, device: torch.device) -> None:
    """Give a model or a pipeline stage on the meta device memory without values, in place."""
    model.to_empty(device=device)
    model.tie_weights()  # `to_empty` gave the two tensors separate memory


def own_part(parameter: Tensor) -> OwnPart:
    """Return this rank's part of a parameter, distributed or not."""
    if not isinstance(parameter, DTensor):
        return OwnPart(parameter, (0,) * parameter.ndim)
    _, offsets = compute_local_shape_and_global_offset(
        parameter.shape, parameter.device_mesh, parameter.placements
    )
    return OwnPart(parameter.to_local(), tuple(offsets))
