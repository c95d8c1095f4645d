"""Softmax attention over packed documents and sliding windows on a GPU; fully masked blocks are skipped.

FlexAttention (Dong et al., arXiv 2412.05496) represents a mask as a function of two positions and lists of the
blocks of 128 by 128 positions that are not fully masked. A dense mask takes a byte per pair of tokens of a row, 17
GB at 131,072 tokens, and excludes torch's fastest kernels. torch's `varlen_attn` supports documents only: no fp32,
no sinks, no soft-cap, and it needs the documents' borders on the CPU.

torch's `create_block_mask` builds the dense mask first. Here the lists come from each block's smallest and largest
document number, [B, T / 128] numbers. If document numbers do not increase along a row, the lists may contain fully
masked blocks. The mask function still decides for each pair, so such blocks cost time but do not change results.

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
"""Tokens per block: FlexAttention's default."""


def make_block_mask(
    documents_BT: Tensor | None, n_tokens: int, window: int | None, device: torch.device
) -> BlockMask:
    """Return the block mask: each token sees itself and earlier tokens of its document within its window.

    Args:
        documents_BT: Document number of each token; None: one document per row.
        n_tokens: T.
        window: Number of keys that a token sees, including itself; None: all keys up to the token.
        device: Device of the tokens.
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
    """Return the attention output [B, H, T, e].

    Args:
        q_BHTd: Queries; head h reads KV head h // (H / G).
        k_BGTd: Keys.
        v_BGTe: Values.
        scale: Factor on q.k.
        blocks: Mask from `make_block_mask`.
        sinks_H: A logit per head that contributes to the denominator only; not scaled.
        softcap: c in c * tanh(logit / c), applied before masking.
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
    # exp(lse) / (exp(lse) + exp(sink)): the keys' share of the denominator.
    assert aux.lse is not None  # requested above
    share_BHT1 = torch.sigmoid(aux.lse - sinks_H.float()[None, :, None]).unsqueeze(-1)
    return (y * share_BHT1).to(v_BGTe.dtype)


@cache
def compiled() -> Callable[..., Any]:
    """Return FlexAttention compiled to a kernel; uncompiled, it materialises all logits."""
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
    """Return which key blocks each query block may partly see, and which it sees fully: bool [B or 1, n, n]."""
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
    """Return the key blocks of each query block: their number, int32 [B, 1, n], and indices, [B, 1, n, n]."""
    listed = is_on_Bnn.int().argsort(dim=-1, descending=True, stable=True)
    return is_on_Bnn.sum(dim=-1, dtype=torch.int32)[:, None], listed.int()[:, None].contiguous()
