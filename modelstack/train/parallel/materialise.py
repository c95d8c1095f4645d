"""Memory and first values for a model that was spread on the meta device: each rank makes its own share only.

A model is built without memory, cut and sharded as it will train, and only then given memory (torchtitan, arXiv
2410.06511, starts so). No rank ever holds the whole of it, nor the whole of a layer: values are drawn in pieces
(`initialise`), and are bit for bit those of one process with the whole model.
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
    """Give a model, or a pipeline's stage, memory and its first values, in place; return it.

    Args:
        model: On the meta device, after `parallelize`.
        device: Of this rank.
        seed: Of the whole model.
        token_frequency_V: What hash routing deals experts by.
    """
    model.to_empty(device=device)
    model.tie_weights()  # each of the two was given memory of its own
    return initialise(model, seed, token_frequency_V, own_part=own_part)


def own_part(parameter: Tensor) -> OwnPart:
    """Return what this rank holds of a parameter, spread or not."""
    if not isinstance(parameter, DTensor):
        return OwnPart(parameter, (0,) * parameter.ndim)
    _, offsets = compute_local_shape_and_global_offset(
        parameter.shape, parameter.device_mesh, parameter.placements
    )
    return OwnPart(parameter.to_local(), tuple(offsets))
