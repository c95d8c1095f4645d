"""Softmax attention over given queries, keys and values: the only place that selects a kernel.

Packed documents and windows on a GPU use `block_attention`. Other plain attention, masked or not, uses torch's
fused kernel, or in training on a CPU `run_attention`. The last two support neither a soft-cap (Gemma 2) nor sinks
(gpt-oss, arXiv 2309.17453: a logit that is part of the denominator only). Attention with these options is computed
step by step, with the softmax in fp32.

Letters: B batch, H query heads, G KV heads, T queries, S keys, d channels of a key, e of a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from modelstack.architecture.attention import run_attention
from modelstack.architecture.context import Run

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

MIN_BLOCK_CHANNELS = 16
"""Minimum channels per head that FlexAttention's kernels require."""


def softmax_attention(
    q_BHTd: Tensor,
    k_BGSd: Tensor,
    v_BGSe: Tensor,
    *,
    scale: float,
    mask: Tensor | None = None,
    causal: bool = False,
    runs: Sequence[Run] = (),
    bias: Tensor | None = None,
    sinks_H: Tensor | None = None,
    softcap: float | None = None,
    blocks: BlockMask | None = None,
) -> Tensor:
    """Return the attention output [B, H, T, e].

    Args:
        q_BHTd: Queries; head h reads KV head h // (H / G).
        k_BGSd: Keys.
        v_BGSe: Values.
        scale: Factor on q.k.
        mask: bool, True where seen, broadcast to [B, H, T, S]; None: all is seen, or `causal`.
        causal: Each query sees the keys up to its own position, T = S; `mask` is then ignored.
        runs: The same mask as runs within which attention is causal; empty if the mask has no such form.
        bias: Added to the logits, broadcast to [B, H, T, S] (ALiBi).
        sinks_H: A logit per head that contributes to the denominator only; not scaled.
        softcap: c in c * tanh(logit / c), applied before masking.
        blocks: The whole mask as blocks, without a bias; replaces `mask`, `causal` and `runs`. None: these apply.
    """
    if blocks is not None:
        from modelstack.architecture.attention.block_attention import block_attention

        return block_attention(q_BHTd, k_BGSd, v_BGSe, scale, blocks, sinks_H, softcap)
    grouped = q_BHTd.shape[1] != k_BGSd.shape[1]
    if sinks_H is None and softcap is None:
        if runs and bias is None and run_attention.suits(q_BHTd, runs):
            return run_attention.run_attention(q_BHTd, k_BGSd, v_BGSe, scale, runs)
        if bias is not None:
            mask = _as_bias(mask, bias, causal, q_BHTd)
            causal = False
        dtype = q_BHTd.dtype
        if _gradient_is_faster_in_fp32(q_BHTd):
            q_BHTd, k_BGSd, v_BGSe = q_BHTd.float(), k_BGSd.float(), v_BGSe.float()
            mask = mask.float() if mask is not None and mask.is_floating_point() else mask
        return F.scaled_dot_product_attention(
            q_BHTd,
            k_BGSd,
            v_BGSe,
            attn_mask=None if causal else mask,
            is_causal=causal,
            scale=scale,
            enable_gqa=grouped,
        ).to(dtype)
    if grouped:
        n_repeat = q_BHTd.shape[1] // k_BGSd.shape[1]
        k_BGSd, v_BGSe = k_BGSd.repeat_interleave(n_repeat, 1), v_BGSe.repeat_interleave(n_repeat, 1)
    logits = torch.matmul(q_BHTd, k_BGSd.transpose(2, 3)) * scale
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if bias is not None:
        logits = logits + bias
    if causal:
        mask = causal_mask(logits.shape[-2], logits.device)
    if mask is not None:
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    return torch.matmul(softmax_with_sink(logits, sinks_H).to(v_BGSe.dtype), v_BGSe)


def _gradient_is_faster_in_fp32(q: Tensor) -> bool:
    """Return whether attention in half precision trains faster with a conversion to fp32.

    Forward and backward of torch's kernel for CPUs take 19 ms in fp32 with the conversions, and 25 ms in bf16 (8 x
    8 heads of 32, 256 tokens, two cores). Forward alone takes the same time. fp32 is also more accurate.
    """
    return q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16) and q.requires_grad


def softmax_with_sink(logits_BHTS: Tensor, sinks_H: Tensor | None) -> Tensor:
    """Return the softmax over S, fp32; a sink is part of the denominator and not of the result."""
    if sinks_H is None:
        return logits_BHTS.softmax(-1, dtype=torch.float32)
    sinks = sinks_H.reshape(1, -1, 1, 1).expand(*logits_BHTS.shape[:3], 1).to(logits_BHTS.dtype)
    return torch.cat((logits_BHTS, sinks), dim=-1).softmax(-1, dtype=torch.float32)[..., :-1]


def causal_mask(n_tokens: int, device: torch.device) -> Tensor:
    """Return the lower triangle, bool [T, T]."""
    return torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=device).tril()


def _as_bias(mask: Tensor | None, bias: Tensor, causal: bool, q: Tensor) -> Tensor:
    """Return the bias with -inf where nothing is seen: the fused kernel accepts only one mask or bias."""
    if causal:
        mask = causal_mask(q.shape[2], q.device)
    bias = bias.to(q.dtype)
    return bias if mask is None else bias.masked_fill(~mask, float("-inf"))
