"""Compression of m tokens to one entry of the KV cache: DeepSeek-V4's compressors (arXiv 2606.19348, section 2.3).

Each channel of an entry is a softmax-weighted mean over the window's tokens. The weights come from a gate and a
bias for the position in the window. Heavily compressed attention (HCA) mixes the m tokens of a window. Compressed
sparse attention (CSA) makes two rows of each token, one for its own window and one for the next, so an entry mixes
2m rows. As in the released code, the first half of the channels is the row for the next window. An entry has the
position of its window's first token and becomes visible when its window is complete. Tokens of an unfinished
window are reached through the sliding window.

Packed documents: windows lie on a grid from the start of the row of tokens, not of the document. An entry whose
window contains tokens of two documents is never visible, and a row for the next window counts only within its own
document. A document that starts at a multiple of m is treated as if it stood alone. Any other document reaches its
first, partial window only through the sliding window. The report masks between packed samples but does not say how
windows are aligned; this alignment is our interpretation.

Letters: B batch, T tokens of this call, D model width, m tokens of a window, n windows completed in this call, N
entries so far, c channels projected, d channels of an entry.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from modelstack.architecture.attention.trailing_rope import rotate_trailing
from modelstack.architecture.cache import GrowingCache
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import ForwardContext
from modelstack.architecture.norms import make_norm
from modelstack.architecture.rope import rotation


@dataclass(slots=True)
class CompressorCache:
    """Entries so far, rows of the unfinished window, and the rows that the last window passes to the next."""

    rate: int
    entries: GrowingCache = field(default_factory=GrowingCache)
    unfinished: GrowingCache = field(default_factory=GrowingCache)
    for_next_window: tuple[Tensor, ...] = ()

    def complete_windows(self, kv_BTc: Tensor, gate_BTc: Tensor) -> tuple[Tensor, Tensor]:
        """Store new rows; return the rows of the windows that are now complete, [B, n * m, c]."""
        n_held = self.unfinished.length
        n_taken = (n_held + kv_BTc.shape[1]) // self.rate * self.rate - n_held
        if n_taken <= 0:
            self.unfinished.append(kv_BTc[:, None], gate_BTc[:, None])
            return kv_BTc[:, :0], gate_BTc[:, :0]
        complete = [kv_BTc[:, :n_taken], gate_BTc[:, :n_taken]]
        if n_held:
            held = [buffer[:, 0, :n_held] for buffer in self.unfinished.buffers]
            complete = [torch.cat(rows, dim=1) for rows in zip(held, complete, strict=True)]
        self.unfinished.length = 0
        if n_taken < kv_BTc.shape[1]:
            self.unfinished.append(kv_BTc[:, None, n_taken:], gate_BTc[:, None, n_taken:])
        return complete[0], complete[1]

    def add(self, new_Bnd: Tensor) -> Tensor:
        """Append entries; return all, [B, N, d]."""
        if not new_Bnd.shape[1] and not self.entries.length:
            return new_Bnd
        return self.entries.append(new_Bnd[:, None])[0][:, 0]

    def bytes_in_use(self) -> int:
        """Return the bytes stored."""
        held = self.entries.bytes_in_use() + self.unfinished.bytes_in_use()
        return held + sum(rows.nbytes for rows in self.for_next_window)


class Compressor(nn.Module):
    """Compute entries; with `overlaps`, each entry mixes its window with the one before."""

    def __init__(self, config: ModelConfig, layer: int, size: int) -> None:
        """Create the projections; `size` is d."""
        super().__init__()
        kind = config.layer_types[layer]
        self.rate, self.size = config.compress_rates[kind], size
        self.overlaps = kind == "compressed_sparse_attention"
        channels = 2 * size if self.overlaps else size
        rope = config.rope(layer)
        assert rope is not None and config.qk_rope_head_dim is not None  # guaranteed by the config's validation
        self.rope, self.rope_channels = rope, config.qk_rope_head_dim
        self.kv_proj = nn.Linear(config.hidden_size, channels, bias=False)
        self.gate_proj = nn.Linear(config.hidden_size, channels, bias=False)
        self.position_bias = nn.Parameter(torch.zeros(self.rate, channels))
        self.kv_norm = make_norm(config, size)

    def entries(self, x_BTD: Tensor, context: ForwardContext, cache: CompressorCache | None = None) -> Tensor:
        """Return all entries so far, [B, N, d]."""
        kv, gate = self.kv_proj(x_BTD), self.gate_proj(x_BTD)
        n_held = 0
        if cache is None:
            n_complete = kv.shape[1] // self.rate * self.rate
            kv, gate = kv[:, :n_complete], gate[:, :n_complete]
        else:
            n_held = cache.unfinished.length
            kv, gate = cache.complete_windows(kv, gate)
        new = kv.new_zeros(kv.shape[0], 0, self.size)
        if kv.shape[1]:
            new = self._compress(kv, gate, context, n_held, cache)
        return new if cache is None else cache.add(new)

    def _compress(
        self, kv: Tensor, gate: Tensor, context: ForwardContext, n_held: int, cache: CompressorCache | None
    ) -> Tensor:
        """Return the entries of complete windows, [B, n, d]; the first `n_held` rows are from earlier calls."""
        n = kv.shape[1] // self.rate
        kv, gate = kv.unflatten(1, (n, self.rate)), gate.unflatten(1, (n, self.rate)) + self.position_bias
        if self.overlaps:
            kv, gate = self._with_window_before(kv, gate, context.documents_BT, cache)
        mixed = (gate.softmax(dim=2, dtype=torch.float32) * kv).sum(dim=2)
        entries = self.kv_norm(mixed).to(kv.dtype)
        starts = self._starts(context.positions_BT, n_held, n)
        return rotate_trailing(entries.unsqueeze(2), rotation(self.rope, self.rope_channels, starts)).squeeze(2)

    def _starts(self, positions_BT: Tensor, n_held: int, n: int) -> Tensor:
        """Return the position of each window's first token, [B or 1, n]; held rows precede this call's tokens."""
        if n_held:
            back = torch.arange(n_held, 0, -1, device=positions_BT.device)
            positions_BT = torch.cat((positions_BT[:, :1] - back, positions_BT), dim=1)
        return positions_BT[:, : n * self.rate : self.rate]

    def _with_window_before(
        self, kv: Tensor, gate: Tensor, documents_BT: Tensor | None, cache: CompressorCache | None
    ) -> tuple[Tensor, Tensor]:
        """Prepend to each window the rows that the previous window made for it: [B, n, 2m, d]."""
        for_next_kv, own_kv = kv.split(self.size, dim=-1)
        for_next_gate, own_gate = gate.split(self.size, dim=-1)
        first_kv, first_gate = torch.zeros_like(own_kv[:, :1]), torch.full_like(own_gate[:, :1], float("-inf"))
        if cache is not None:
            if cache.for_next_window:
                first_kv, first_gate = cache.for_next_window
            cache.for_next_window = (for_next_kv[:, -1:].clone(), for_next_gate[:, -1:].clone())
        before_kv = torch.cat((first_kv, for_next_kv[:, :-1]), dim=1)
        before_gate = torch.cat((first_gate, for_next_gate[:, :-1]), dim=1)
        if documents_BT is not None:
            documents = windows(documents_BT, self.rate)
            is_other = torch.zeros_like(documents, dtype=torch.bool)
            is_other[:, 1:] = documents[:, :-1] != documents[:, 1:, :1]
            before_gate = before_gate.masked_fill(is_other.unsqueeze(-1), float("-inf"))
        return torch.cat((before_kv, own_kv), dim=2), torch.cat((before_gate, own_gate), dim=2)


def windows(x_BT: Tensor, m: int) -> Tensor:
    """Return the complete windows of a row, [B, n, m]."""
    n = x_BT.shape[1] // m
    return x_BT[:, : n * m].unflatten(1, (n, m))


def visible_entries(context: ForwardContext, m: int, n_entries: int, start: int, end: int) -> Tensor:
    """Return which entries the tokens `start` to `end` of this call may see, bool [B or 1, end - start, N].

    An entry is visible once its window is complete. With packed documents, all of the window must also belong to
    the token's own document.
    """
    device = context.token_ids_BT.device
    n_seen = (torch.arange(context.n_past + start, context.n_past + end, device=device) + 1) // m
    seen = (torch.arange(n_entries, device=device) < n_seen[:, None])[None]
    if context.documents_BT is None:
        return seen
    documents = windows(context.documents_BT, m)
    is_whole = (documents == documents[..., :1]).all(dim=-1)
    is_own = context.documents_BT[:, start:end, None] == documents[:, None, :, 0]
    return seen & is_whole[:, None] & is_own
