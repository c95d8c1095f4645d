"""Causal attention over runs of tokens with plain matrix products: the fastest training on a CPU with oneDNN.

Forward and backward take 6 ms in bf16 and 14 in fp32; torch's kernel for CPUs takes 20 and 19 ms (1,024 tokens in
rows of 256, 9 heads of 64 on 3, one core of a Zen 5). With a mask for packed documents torch's kernel multiplies
all pairs of a row; here each run, such as a document, is a separate product. Probabilities are kept for the
backward pass in the inputs' precision, or recomputed if a run is too long. Scores are fp32, so results are as
accurate as those of torch's kernel.

Queries are processed in blocks of `BLOCK`, each against the keys up to its end, which skips most masked pairs. All
query heads of one KV head are rows of one product.

Letters: B rows, H query heads, G KV heads, n = H / G, T tokens, q queries of a block, s keys up to its end, d
channels of a key, e of a value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modelstack.architecture.context import Run
from modelstack.architecture.cpu_products import is_by_onednn

BLOCK = 128
"""Queries per block: the fastest of 64 to 256 for runs of 128 to 1,024 tokens."""
MAX_KEPT = 1024
"""Maximum length of a run that keeps its probabilities: 28 MB per layer and 1,024 tokens with 9 heads."""
MAX_RUN = 8192
"""Maximum length of a run: a block of scores of a longer run exceeds the caches, and torch's kernel is as fast."""


def suits(q: Tensor, runs: Sequence[Run]) -> bool:
    """Return whether `run_attention` is the better kernel: in training on a CPU where oneDNN multiplies.

    This is the case in half precision, and in fp32 if oneDNN was selected (`cpu_products`).
    """
    return (
        q.device.type == "cpu"
        and (q.dtype in (torch.bfloat16, torch.float16) or (q.dtype == torch.float32 and is_by_onednn()))
        and q.requires_grad
        and type(q) is Tensor
        and not torch.compiler.is_compiling()
        and all(run.end - run.start <= MAX_RUN for run in runs)
    )


def run_attention(q_BHTd: Tensor, k_BGTd: Tensor, v_BGTe: Tensor, scale: float, runs: Sequence[Run]) -> Tensor:
    """Return the attention output [B, H, T, e].

    Args:
        q_BHTd: Queries; head h reads KV head h // (H / G).
        k_BGTd: Keys.
        v_BGTe: Values.
        scale: Factor on q.k.
        runs: Runs that together contain every token of every row once.
    """
    return _RunAttention.apply(q_BHTd, k_BGTd, v_BGTe, scale, runs)


class _RunAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, runs: Sequence[Run]) -> Tensor:
        B, H, T, _ = q.shape
        G = k.shape[1]
        q, k, v = q.contiguous().view(B, G, H // G, T, -1), k.contiguous(), v.contiguous()
        q_fp32, k_fp32 = q.to(torch.float32, copy=True).mul_(scale), k.float()
        y = v.new_empty(B, T, G, H // G, v.shape[-1])  # the layout that the output projection reads
        kept = []
        for rows, start, first, end, run_end in _blocks(runs):
            p = _probabilities(
                _queries(q_fp32, rows, first, end), _keys(k_fp32, rows, start, end), end - first, v.dtype
            )
            mixed = torch.bmm(p, _keys(v, rows, start, end))
            y[rows, first:end] = mixed.view(-1, G, H // G, end - first, v.shape[-1]).permute(0, 3, 1, 2, 4)
            kept.append(p if run_end - start <= MAX_KEPT else None)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.scale, ctx.runs = scale, runs
        return y.view(B, T, H, -1).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        q, k, v, *kept = ctx.saved_tensors
        g = gradients[0].reshape(*q.shape[:-1], -1)
        into_q, into_k, into_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for p, (rows, start, first, end, _) in zip(kept, _blocks(ctx.runs), strict=True):
            g_block, q_block = _queries(g, rows, first, end), _queries(q, rows, first, end)
            if p is None:
                scaled = q_block.to(torch.float32, copy=True).mul_(ctx.scale)
                p = _probabilities(scaled, _keys(k, rows, start, end).float(), end - first, v.dtype)
            into_p = torch.bmm(g_block, _keys(v, rows, start, end).transpose(1, 2))
            into_scores = torch.ops.aten._softmax_backward_data(into_p, p, -1, p.dtype)
            of_block = torch.bmm(into_scores, _keys(k, rows, start, end))
            into_q[rows, :, :, first:end] = of_block.view(-1, *q.shape[1:3], end - first, q.shape[-1])
            for into, left, right in ((into_k, into_scores, q_block), (into_v, p, g_block)):
                into[rows, :, start:end] += torch.bmm(left.transpose(1, 2), right).unflatten(0, (-1, k.shape[1]))
        return into_q.mul_(ctx.scale).flatten(1, 2), into_k.mul_(ctx.scale), into_v, None, None


def _probabilities(q_block: Tensor, k_seen: Tensor, n_queries: int, dtype: torch.dtype) -> Tensor:
    """Return the attention probabilities of a block of queries, [rows * G, n * q, s]; later keys get 0.

    Args:
        q_block: Queries, scaled, fp32, [rows * G, n * q, d].
        k_seen: The keys up to the last query, fp32, [rows * G, s, d].
        n_queries: q.
        dtype: Type of the result.
    """
    n_keys = k_seen.shape[1]
    # `out=`: selective checkpointing would save the result of `bmm`, but this tensor is overwritten below.
    scores = q_block.new_empty(*q_block.shape[:2], n_keys)
    torch.bmm(q_block, k_seen.transpose(1, 2), out=scores)
    scores.view(-1, n_queries, n_keys)[..., n_keys - n_queries :].add_(_hidden(n_queries))
    return torch.softmax(scores, -1).to(dtype)


def _blocks(runs: Sequence[Run]) -> Iterator[tuple[slice, int, int, int, int]]:
    """Yield the rows, the start of their run, the start and end of a block of queries, and the end of the run."""
    for run in runs:
        for first in range(run.start, run.end, BLOCK):
            yield slice(run.first_row, run.end_row), run.start, first, min(first + BLOCK, run.end), run.end


def _queries(x_BGnTd: Tensor, rows: slice, first: int, end: int) -> Tensor:
    """Return the queries of a block, [rows * G, n * q, d]."""
    block = x_BGnTd[rows, :, :, first:end]
    return block.reshape(block.shape[0] * block.shape[1], -1, block.shape[-1])


def _keys(x_BGTd: Tensor, rows: slice, start: int, end: int) -> Tensor:
    """Return the keys of a block, [rows * G, s, d]."""
    return x_BGTd[rows, :, start:end].flatten(0, 1)


@lru_cache(maxsize=2 * BLOCK)
def _hidden(n: int) -> Tensor:
    """Return the causal mask to add to the scores of n queries and their own n keys: -inf for later keys."""
    return torch.full((n, n), float("-inf")).triu_(1)
