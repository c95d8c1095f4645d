"""Softmax over a sliding window, compressed entries and a sink; one vector is key and value of all heads.

This is the softmax of DeepSeek-V4's attention (arXiv 2606.19348, section 2.3). Three measures limit its memory:

- Window rows are cut into overlapping bands, so T queries have T * 2W logits instead of T * T.
- Heads are rows of the matrix products, so no row is repeated for each head.
- Long inputs are processed in blocks of queries.

One function computes the products with all entries, with the entries selected by each query and with the bands;
they differ only in the number of queries that share their rows.

Letters: B batch, T queries, S rows of the window branch (the last T are the queries' own), H heads, d channels, N
entries, k entries selected for a query, W window, n bands of b queries each, K = b + W - 1 rows of a band.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

FLOATS_AT_ONCE = 2**27
"""Maximum number of logits and gathered values computed in one step: 512 MiB in fp32."""


@dataclass(slots=True)
class Entries:
    """Compressed entries, and which of them each query may attend to."""

    rows_BNd: Tensor
    seen: Tensor
    """Whether a query sees an entry, bool [B or 1, T, N]; with `chosen_BTk`, [B, T, k]."""
    chosen_BTk: Tensor | None = None
    """Indices of the entries available to each query; None: all entries."""

    def of_queries(self, start: int, end: int) -> Entries:
        """Return the entries available to the queries `start` to `end`."""
        chosen = None if self.chosen_BTk is None else self.chosen_BTk[:, start:end]
        return Entries(self.rows_BNd, self.seen[:, start:end], chosen)

    def offered(self) -> Tensor:
        """Return the available rows: [B, 1, N, d] shared by all queries, or [B, T, k, d]."""
        if self.chosen_BTk is None:
            return self.rows_BNd.unsqueeze(1)
        B, N, d = self.rows_BNd.shape
        first = torch.arange(B, device=self.rows_BNd.device)[:, None, None] * N
        # The gradient of index_select adds whole rows; that of gather adds single numbers.
        rows = self.rows_BNd.reshape(B * N, d).index_select(0, (self.chosen_BTk + first).flatten())
        return rows.view(*self.chosen_BTk.shape, d)

    def floats_per_query(self, n_heads: int) -> int:
        """Return the number of floats that attention creates for one query."""
        gathered = 0 if self.chosen_BTk is None else self.chosen_BTk.shape[2] * self.rows_BNd.shape[2]
        return n_heads * self.seen.shape[2] + gathered


def window_and_entries_attention(
    q_BTHd: Tensor,
    kv_BSd: Tensor,
    entries: Entries | None,
    sinks_H: Tensor,
    *,
    scale: float,
    window: int,
    documents_BS: Tensor | None = None,
) -> Tensor:
    """Return the attention output [B, T, H, d].

    Args:
        q_BTHd: Queries.
        kv_BSd: Rows that are keys and values: those of the queries' tokens, after at most W - 1 earlier rows.
        entries: Compressed entries; None: attend to the window only.
        sinks_H: A logit per head that contributes to the denominator only; not scaled.
        scale: Factor on q.k.
        window: W, including the query's own row.
        documents_BS: Document number of each row; queries see only rows of their own document.
    """
    parts = [
        _attend(q * scale, kv, offered, sinks_H, window, documents)
        for q, kv, offered, documents in _pieces(q_BTHd, kv_BSd, entries, window, documents_BS)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def share_of_entries(
    q_BTHd: Tensor,
    kv_BSd: Tensor,
    entries: Entries,
    sinks_H: Tensor,
    *,
    scale: float,
    window: int,
    documents_BS: Tensor | None = None,
) -> Tensor:
    """Return the attention to each entry, summed over heads: fp32 [B, T, N] or [B, T, k].

    The arguments are those of `window_and_entries_attention`.
    """
    parts = []
    for q, kv, offered, documents in _pieces(q_BTHd, kv_BSd, entries, window, documents_BS):
        assert offered is not None  # the argument is not None
        bands, seen = _bands(kv, q.shape[1], window, documents)
        _, to_entries = _weights(q * scale, bands, seen, offered.offered(), offered.seen, sinks_H)
        parts.append(to_entries.sum(dim=2))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _pieces(
    q_BTHd: Tensor, kv_BSd: Tensor, entries: Entries | None, window: int, documents_BS: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Entries | None, Tensor | None]]:
    """Yield blocks of queries with the rows, entries and documents that they may see."""
    B, T, H, _ = q_BTHd.shape
    n_past = kv_BSd.shape[1] - T
    floats = B * (2 * window * H + (entries.floats_per_query(H) if entries else 0))
    step = max(window, FLOATS_AT_ONCE // floats)
    for start in range(0, T, step):
        end = min(start + step, T)
        rows = slice(max(0, n_past + start - window + 1), n_past + end)
        offered = entries.of_queries(start, end) if entries else None
        documents = None if documents_BS is None else documents_BS[:, rows]
        yield q_BTHd[:, start:end], kv_BSd[:, rows], offered, documents


def _attend(
    q_BTHd: Tensor,
    kv_BSd: Tensor,
    entries: Entries | None,
    sinks_H: Tensor,
    window: int,
    documents_BS: Tensor | None,
) -> Tensor:
    bands, seen = _bands(kv_BSd, q_BTHd.shape[1], window, documents_BS)
    offered = entries.offered() if entries else None
    seen_entries = entries.seen if entries else None
    to_window, to_entries = _weights(q_BTHd, bands, seen, offered, seen_entries, sinks_H)
    y = _product(to_window.to(bands.dtype), bands)
    return y if offered is None else y + _product(to_entries.to(offered.dtype), offered)


def _weights(
    q_BTHd: Tensor,
    bands_BnKd: Tensor,
    seen_BTK: Tensor,
    offered: Tensor | None,
    seen_entries: Tensor | None,
    sinks_H: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the softmax weights of window rows, [B, T, H, K], and of entries (none: [B, T, H, 0]), fp32."""
    in_window = _masked(_product(q_BTHd, bands_BnKd.mT), seen_BTK)
    logits = [in_window]
    if offered is not None and seen_entries is not None:
        logits.append(_masked(_product(q_BTHd, offered.mT), seen_entries))
    sinks = sinks_H.to(in_window.dtype)[:, None].expand(*in_window.shape[:3], 1)
    weights = torch.cat((*logits, sinks), dim=-1).softmax(-1, dtype=torch.float32)
    n_window = in_window.shape[-1]
    return weights[..., :n_window], weights[..., n_window:-1]


def _masked(logits_BTHn: Tensor, seen_BTn: Tensor) -> Tensor:
    return logits_BTHn.masked_fill(~seen_BTn.unsqueeze(2), torch.finfo(logits_BTHn.dtype).min)


def _product(x_BTHi: Tensor, m_Bnij: Tensor) -> Tensor:
    """Multiply each query's heads by the matrix of its band, the i-th of n: [B, T, H, j]."""
    B, T, H, _ = x_BTHi.shape
    n = m_Bnij.shape[1]
    b = ceil(T / n)
    if n * b > T:
        x_BTHi = F.pad(x_BTHi, (0, 0, 0, 0, 0, n * b - T))
    y = x_BTHi.reshape(B, n, b * H, -1) @ m_Bnij
    return y.view(B, n * b, H, -1)[:, :T]


def _bands(kv_BSd: Tensor, T: int, window: int, documents_BS: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the rows of each band of queries, [B, n, K, d], and which each query sees, bool [B or 1, T, K]."""
    S = kv_BSd.shape[1]
    window = min(window, S)
    n = ceil(T / window)
    b = ceil(T / n)
    n_rows = b + window - 1
    missing, behind = window - 1 - (S - T), n * b - T
    bands = F.pad(kv_BSd, (0, 0, missing, behind)).unfold(1, n_rows, b).mT
    query = torch.arange(b, device=kv_BSd.device)[:, None]
    row = torch.arange(n_rows, device=kv_BSd.device)
    in_window = (row >= query) & (row < query + window)
    is_there = torch.arange(n, device=kv_BSd.device)[:, None] * b + row >= missing
    seen = (in_window & is_there[:, None]).unsqueeze(0)
    if documents_BS is not None:
        documents = F.pad(documents_BS, (missing, behind)).unfold(1, n_rows, b)
        seen = seen & (documents[:, :, None] == documents[:, :, window - 1 :, None])
    return bands, seen.flatten(1, 2)[:, :T]
