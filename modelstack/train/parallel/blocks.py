"""What is done to each decoder block by itself: activation checkpointing and compilation.

Checkpointing (Chen et al., arXiv 1604.06174) keeps a block's input and computes the rest again in the backward
pass. Selective checkpointing (Korthikanti et al., 2205.05198; by operator, as torchtitan does it) keeps what
matrix products and attention gave, which is most of the time, and computes norms, rotations and activations again.

The block's `forward` is replaced and no module put around it: names of parameters stay, and so do those in
checkpoints. A block that runs twice leaves its routing in the context twice, under the same key and with the same
values; balancing counts are taken from the output, once (`moe.balancing`).

Compilation is by block: all blocks of one shape share one compiled function, so that the time it takes does not
grow with depth.
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
"""Operators whose results selective checkpointing keeps: those whose time grows with a product of widths."""


def decoder_blocks(model: nn.Module) -> list[Any]:
    """Return the decoder blocks of a model or a stage, in its order, those of multi-token prediction included."""
    return [module for module in model.modules() if isinstance(module, BLOCK_KINDS)]


def apply_checkpointing(model: nn.Module, kind: str) -> None:
    """Let each block compute anew in the backward pass what it does not keep.

    Args:
        model: Or a stage; changed in place.
        kind: "none", "full" or "selective", as in `Layout.checkpointing`.
    """
    if kind == "none":
        return
    context_fn: dict[str, Callable[[], Any]] = {}
    if kind == "selective":
        context_fn["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in decoder_blocks(model):
        # Nothing in a block is drawn at random, so there is no generator whose state must be kept.
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False, **context_fn
        )


def compile_blocks(model: nn.Module) -> None:
    """Compile each block when it first runs; in place, names of parameters stay."""
    for block in decoder_blocks(model):
        block.compile()


def _policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in KEPT else CheckpointPolicy.PREFER_RECOMPUTE
