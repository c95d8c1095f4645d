"""Initial weights: all of it in one place, and the same for a parameter whatever else the model has.

Matrices are drawn from N(0, `initializer_range`), as in transformers; biases are 0, norms the identity. Each
parameter has a generator of its own, seeded by the model's seed and its name. So a model with one block more, or
with another MLP, has the same values in all that stayed, and two variants can be compared seed by seed.

With `zero_outputs` the matrices that write to the residual stream start at 0, so every block is the identity at
first (Zhang et al., Fixup, arXiv 1901.09321; ReZero, 2003.04887; modded-nanogpt and nanochat start so). What that
was worth when small models were trained: `modelstack/train/LOG.md`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.hyper_connections import GATING_INIT
from modelstack.architecture.moe.hash_router import HashRouter
from modelstack.architecture.moe.hash_table import fill_hash_tables
from modelstack.architecture.norms import RMSNormZeroCentred

DECAY_RANGE = (0.01, 16.0)
"""Gated DeltaNet's decay rates start uniform in this range (A_log is their logarithm), as in its reference."""
OUTPUTS = ("o_proj.weight", "o_b_proj.weight", "out_proj.weight", "down_proj.weight", "down_proj")
"""Ends of the names of matrices whose product is added to the residual stream; the last is packed experts'."""


def initialise(
    model: CausalLM,
    seed: int = 0,
    token_frequency_V: Sequence[float] | None = None,
    *,
    zero_outputs: bool = False,
) -> CausalLM:
    """Draw every parameter anew, in place, and return the model.

    Args:
        model: With memory (not on the meta device); values as of now do not matter.
        seed: Of the whole model.
        token_frequency_V: What hash routing deals experts by; None: all tokens are equally frequent.
        zero_outputs: Let every block be the identity at first.
    """
    zero_centred = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, RMSNormZeroCentred)
    }
    std = model.config.initializer_range
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_zero = zero_outputs and name.endswith(OUTPUTS)
            _fill(name, parameter, seed, 0.0 if is_zero else std, name in zero_centred)
    if any(isinstance(module, HashRouter) for module in model.modules()):
        fill_hash_tables(model, token_frequency_V or [1.0] * model.config.vocab_size, seed)
    return model


def _fill(name: str, parameter: Tensor, seed: int, std: float, is_zero_centred: bool) -> None:
    leaf = name.rpartition(".")[2]
    if leaf == "A_log":
        drawn = torch.empty(parameter.shape).uniform_(*DECAY_RANGE, generator=_generator(name, seed)).log()
        parameter.copy_(drawn)
    elif leaf == "dt_bias":
        parameter.fill_(1.0)
    elif leaf in ("scale", "hc_scale"):
        parameter.fill_(GATING_INIT)
    elif leaf.endswith("bias") or leaf in ("base", "hc_base", "sinks") or is_zero_centred:
        parameter.zero_()
    elif parameter.ndim == 1:
        parameter.fill_(1.0)  # what is left of one axis are the norms' factors
    else:
        parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=_generator(name, seed)))


def _generator(name: str, seed: int) -> torch.Generator:
    """Return a generator on the CPU: the same values on every device."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
