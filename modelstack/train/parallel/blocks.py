"""Activation checkpointing and compilation of each decoder block.

Checkpointing (Chen et al., arXiv 1604.06174) keeps a block's input and recomputes the rest in the backward pass.
Selective checkpointing (Korthikanti et al., 2205.05198; per operator, as in torchtitan) keeps the results of
matrix products and attention, which take most of the time, and recomputes norms, rotations and activations.

The block's `forward` is replaced instead of wrapping the module, so names of parameters stay the same, also in
checkpoints. A block that runs twice stores its routing in the context twice, under the same key and with the same
values. Balancing counts are taken from the output, once (`moe.balancing`).

Compilation is per block: all blocks of one shape share one compiled function, so compilation time does not grow
with depth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from modelstack.architecture.blocks import PostNormBlock, PreNormBlock, SandwichBlock
from modelstack.architecture.hyper_connections import HyperBlock

BLOCK_KINDS = (PreNormBlock, PostNormBlock, SandwichBlock, HyperBlock)
aten = torch.ops.aten
KEPT = frozenset(
    {
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten._grouped_mm.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
    }
)
"""Operators whose results selective checkpointing keeps: their time grows with a product of widths."""


def decoder_blocks(model: nn.Module) -> list[Any]:
    """Return the decoder blocks of a model or a stage in order, including those of multi-token prediction."""
    return [module for module in model.modules() if isinstance(module, BLOCK_KINDS)]


def apply_checkpointing(model: nn.Module, kind: str) -> None:
    """Make each block recompute in the backward pass what it does not keep.

    Args:
        model: A model or a stage; changed in place.
        kind: "none", "full" or "selective", as in `Layout.checkpointing`.
    """
    if kind == "none":
        return
    context_fn: dict[str, Callable[[], Any]] = {}
    if kind == "selective":
        context_fn["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in decoder_blocks(model):
        # Blocks use no random numbers, so no generator state must be restored.
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False, **context_fn
        )


def compile_blocks(model: nn.Module) -> None:
    """Make each block compile at its first run, in place; names of parameters stay the same."""
    for block in decoder_blocks(model):
        block.compile()


def _policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in KEPT else CheckpointPolicy.PREFER_RECOMPUTE
