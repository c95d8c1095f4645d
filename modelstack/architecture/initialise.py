"""Initial weights of all parameters. A parameter's values do not depend on the rest of the model.

Matrices are drawn from N(0, `initializer_range`), as in transformers; biases are 0; norms start as the identity.
Each parameter has its own generator, seeded by the model's seed and the parameter's name. A model with one more
block, or with another MLP, has the same values in all shared parameters, so variants can be compared seed by seed.

With `zero_outputs` the matrices that write to the residual stream start at 0, so every block starts as the
identity (Zhang et al., Fixup, arXiv 1901.09321; ReZero, 2003.04887; modded-nanogpt and nanochat do the same). Its
effect in training small models is recorded in `modelstack/train/LOG.md`.

A process that holds a shard of a parameter draws the whole parameter in chunks and keeps its own part. All layouts
therefore start with the same bits, and the memory needed is that of the shard and one chunk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from math import ceil, gcd
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.hyper_connections import GATING_INIT
from modelstack.architecture.moe.hash_router import HashRouter
from modelstack.architecture.moe.hash_table import fill_hash_tables
from modelstack.architecture.norms import RMSNormZeroCentred

DECAY_RANGE = (0.01, 16.0)
"""Initial range of Gated DeltaNet's decay rates, drawn uniformly (A_log is their logarithm), as in its reference.
"""
OUTPUTS = ("o_proj.weight", "o_b_proj.weight", "out_proj.weight", "down_proj.weight", "down_proj")
"""Name endings of the matrices whose product is added to the residual stream; the last is the packed experts'."""
DRAWN_AT_ONCE = 2**22
"""Approximate numbers per chunk: 16 MiB."""
NORMALS_AT_ONCE = 16
"""Group size of torch's normal generator on the CPU. It redraws the last group of a tensor if that is incomplete.
Chunks of whole groups, the last with at least one, give the same numbers as one call for the whole tensor.
"""

Model = TypeVar("Model", bound=CausalLM)


class OwnPart(NamedTuple):
    """The block of a parameter that one process holds."""

    values: Tensor
    """The block itself, written in place."""
    offsets: tuple[int, ...]
    """Start of the block in the whole parameter, for each axis."""

    def keep(self, block: Tensor, offsets: Sequence[int]) -> None:
        """Copy the numbers of this part that are in another block of the parameter, which starts at `offsets`."""
        axes = list(zip(self.offsets, self.values.shape, offsets, block.shape, strict=True))
        begins = [max(own, others) for own, _, others, _ in axes]
        ends = [min(own + n_own, others + n_others) for own, n_own, others, n_others in axes]
        if all(begin < end for begin, end in zip(begins, ends, strict=True)):
            self.values[_slices(begins, ends, self.offsets)].copy_(block[_slices(begins, ends, offsets)])


def whole_part(parameter: Tensor) -> OwnPart:
    """Return the whole parameter as one part."""
    return OwnPart(parameter, (0,) * parameter.ndim)


def initialise(
    model: Model,
    seed: int = 0,
    token_frequency_V: Sequence[float] | None = None,
    *,
    zero_outputs: bool = False,
    own_part: Callable[[Tensor], OwnPart] = whole_part,
) -> Model:
    """Draw every parameter in place, set balancing biases to 0, and return the model.

    Args:
        model: A model with memory (not on the meta device); its current values are ignored.
        seed: Seed of the whole model.
        token_frequency_V: Token frequencies by which hash routing assigns experts; None: all tokens equally
            frequent.
        zero_outputs: Make every block start as the identity.
        own_part: Returns the part of a parameter that this process holds; default: all of it.
    """
    zero_centred = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, RMSNormZeroCentred)
    }
    std = model.config.initializer_range
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_zero = zero_outputs and name.endswith(OUTPUTS)
            part, shape = own_part(parameter), parameter.shape
            _fill(name, part, shape, seed, 0.0 if is_zero else std, name in zero_centred)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.zero_()
    if any(isinstance(module, HashRouter) for module in model.modules()):
        fill_hash_tables(model, token_frequency_V or [1.0] * model.config.vocab_size, seed)
    return model


def _fill(name: str, part: OwnPart, shape: torch.Size, seed: int, std: float, is_zero_centred: bool) -> None:
    leaf = name.rpartition(".")[2]
    if leaf == "A_log":
        drawn = torch.empty(shape).uniform_(*DECAY_RANGE, generator=_generator(name, seed)).log()
        part.keep(drawn, (0,) * drawn.ndim)
    elif leaf == "dt_bias":
        part.values.fill_(1.0)
    elif leaf in ("scale", "hc_scale"):
        part.values.fill_(GATING_INIT)
    elif leaf.endswith("bias") or leaf in ("base", "hc_base", "sinks") or is_zero_centred:
        part.values.zero_()
    elif len(shape) == 1:
        part.values.fill_(1.0)  # the remaining one-axis parameters are the norms' factors
    else:
        _draw_normal(part, shape, std, _generator(name, seed))


def _draw_normal(part: OwnPart, shape: torch.Size, std: float, generator: torch.Generator) -> None:
    """Draw a tensor in chunks of rows, with the numbers that one call would give; keep the process's own part."""
    n_rows, n_of_row = shape[0], shape[1:].numel()
    multiple = NORMALS_AT_ONCE // gcd(NORMALS_AT_ONCE, n_of_row)
    step = ceil(DRAWN_AT_ONCE / n_of_row / multiple) * multiple
    own_end = part.offsets[0] + part.values.shape[0]
    start = 0
    while start < own_end and part.values.numel():
        end = min(start + step, n_rows)
        if (n_rows - end) * n_of_row < NORMALS_AT_ONCE:
            end = n_rows
        drawn = torch.empty(end - start, *shape[1:]).normal_(0.0, std, generator=generator)
        part.keep(drawn, (start, *(0 for _ in shape[1:])))
        start = end


def _slices(begins: Sequence[int], ends: Sequence[int], offsets: Sequence[int]) -> tuple[slice, ...]:
    """Return the index of a range of the whole parameter in a block that starts at `offsets`."""
    return tuple(slice(b - o, e - o) for b, e, o in zip(begins, ends, offsets, strict=True))


def _generator(name: str, seed: int) -> torch.Generator:
    """Return a generator on the CPU, so that values are the same on every device."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
