"""Softmax attention over packed documents and sliding windows on a GPU: blocks that nobody sees are left out.

FlexAttention (Dong et al., arXiv 2412.05496): a mask is a function of two places, beside lists of the blocks of
128 by 128 that hold anything. A dense mask is a byte for each pair of tokens of a row, 17 GB at 131,072 tokens,
and rules out torch's fastest kernels. torch's `varlen_attn` serves documents alone, but has no fp32, no sinks
and no soft-cap, and wants the documents' borders on the CPU.

torch's own `create_block_mask` makes the dense mask first. Here the lists come from each block's smallest and
largest document, [B, T / 128] numbers. They may name a block in which nobody sees anything, where a row's document
numbers do not rise; the function decides for each pair, so that costs time and changes nothing.

Letters: B batch, H query heads, G KV heads, T tokens, d channels of a key, e of a value, n blocks of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

BLOCK = 128
"""Tokens of a block: FlexAttention's usual."""


def make_block_mask(
    documents_BT: Tensor | None, n_tokens: int, window: int | None, device: torch.device
) -> BlockMask:
    """Return who sees whom: each token itself and those before it, of its document and within its window.

    Args:
        documents_BT: A number for each document; None: a row is one.
        n_tokens: T.
        window: Keys that a token sees, itself included; None: all before it.
        device: Of the tokens.
    """
    seen, whole = _blocks(documents_BT, n_tokens, window, device)
    return BlockMask.from_kv_blocks(
        *_listed(seen & ~whole),
        *_listed(seen & whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=_mask_mod(documents_BT, window),
        seq_lengths=(n_tokens, n_tokens),
    )


def block_attention(
    q_BHTd: Tensor,
    k_BGTd: Tensor,
    v_BGTe: Tensor,
    scale: float,
    blocks: BlockMask,
    sinks_H: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Return [B, H, T, e].

    Args:
        q_BHTd: Queries; head h reads KV head h // (H / G).
        k_BGTd: Keys.
        v_BGTe: Values.
        scale: Factor on q.k.
        blocks: From `make_block_mask`.
        sinks_H: A logit for each head that takes part in the denominator; not scaled.
        softcap: c in c * tanh(logit / c), before masking.
    """
    attend = flex_attention if torch.compiler.is_compiling() else compiled()
    wants_lse = AuxRequest(lse=sinks_H is not None)
    y, aux = attend(
        q_BHTd,
        k_BGTd,
        v_BGTe,
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=blocks,
        scale=scale,
        enable_gqa=q_BHTd.shape[1] != k_BGTd.shape[1],
        return_aux=wants_lse,
    )
    if sinks_H is None:
        return y
    # exp(lse) / (exp(lse) + exp(sink)): what is left of the denominator to the keys.
    assert aux.lse is not None  # it was asked for
    share_BHT1 = torch.sigmoid(aux.lse - sinks_H.float()[None, :, None]).unsqueeze(-1)
    return (y * share_BHT1).to(v_BGTe.dtype)


@cache
def compiled() -> Callable[..., Any]:
    """Return FlexAttention as a kernel: uncompiled it makes all logits."""
    return torch.compile(flex_attention)


def _mask_mod(documents_BT: Tensor | None, window: int | None) -> Callable[..., Tensor]:
    def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = key <= query
        if window is not None:
            seen = seen & (query - key < window)
        if documents_BT is not None:
            seen = seen & (documents_BT[b, query] == documents_BT[b, key])
        return seen

    return sees


def _capped(softcap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.tanh(score / softcap) * softcap

    return capped


def _blocks(
    documents_BT: Tensor | None, n_tokens: int, window: int | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return which blocks of keys each block of queries may see at all, and sees wholly: bool [B or 1, n, n]."""
    n = -(-n_tokens // BLOCK)
    first = torch.arange(n, device=device) * BLOCK
    last = first + BLOCK - 1
    queries, keys = (slice(None), None), (None, slice(None))
    seen = first[keys] <= last[queries]
    whole = (last[keys] <= first[queries]) & (last[queries] < n_tokens)
    if window is not None:
        seen = seen & (first[queries] - last[keys] < window)
        whole = whole & (last[queries] - first[keys] < window)
    if documents_BT is None:
        return seen[None], whole[None]
    padded = F.pad(documents_BT[:, None].double(), (0, n * BLOCK - n_tokens), mode="replicate")[:, 0]
    lowest, highest = padded.unflatten(1, (n, BLOCK)).aminmax(dim=2)
    lowest_q, highest_q = lowest[..., None], highest[..., None]
    lowest_k, highest_k = lowest[:, None], highest[:, None]
    overlap = (lowest_q <= highest_k) & (lowest_k <= highest_q)
    is_one = (lowest_q == highest_k) & (highest_q == lowest_k)
    return seen & overlap, whole & is_one


def _listed(is_on_Bnn: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many blocks each block of queries has, int32 [B, 1, n], and which, those first, [B, 1, n, n]."""
    listed = is_on_Bnn.int().argsort(dim=-1, descending=True, stable=True)
    return is_on_Bnn.sum(dim=-1, dtype=torch.int32)[:, None], listed.int()[:, None].contiguous()
