"""Data shared by all layers of one forward pass: positions, documents, masks and rotations, each computed once.

A layer requests a mask by its meaning (`window`); masks are not passed from layer to layer. Each attention kind
requests only what it needs. Layers store their routing decisions here for the losses.

Letters: B batch, T tokens of this call, P tokens already in the cache, S = P + T, r rotated channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modelstack.architecture.config import RopeParameters
from modelstack.architecture.rope import Rotation, half_split, rotation

if TYPE_CHECKING:  # importing it loads torch's compiler, which inference on a CPU does not need
    from torch.nn.attention.flex_attention import BlockMask


BLOCK_DEVICES = ("cuda",)
"""Device types on which FlexAttention can train; it has no backward pass on CPUs."""


class Routing:
    """Routing decision of one layer; N = B * T tokens, E experts, k selected.

    Not a dataclass: FSDP searches dataclasses among a module's inputs for tensors with a gradient and copies the
    dataclass if it finds any. Values that later layers store in a copied context would be lost.
    """

    __slots__ = ("logits_NE", "scores_NE", "experts_Nk")

    def __init__(self, logits_NE: Tensor, scores_NE: Tensor, experts_Nk: Tensor) -> None:
        """Store the scores before and after the scoring function, and the selected experts."""
        self.logits_NE, self.scores_NE, self.experts_Nk = logits_NE, scores_NE, experts_Nk


class IndexDivergence:
    """Divergence per token between one layer's indexer and its attention. No dataclass, as for `Routing`."""

    __slots__ = ("divergence_BT", "sees_any_BT")

    def __init__(self, divergence_BT: Tensor, sees_any_BT: Tensor) -> None:
        """Store the divergences (fp32, 0 if a token sees no entry) and whether each token sees an entry (bool)."""
        self.divergence_BT, self.sees_any_BT = divergence_BT, sees_any_BT


@dataclass(frozen=True, slots=True)
class Run:
    """A run of tokens: positions [start, end) of the rows [first_row, end_row).

    Each token sees itself and the earlier tokens of the run in its own row.
    """

    first_row: int
    end_row: int
    start: int
    end: int


@dataclass(slots=True)
class ForwardContext:
    """Shared data of one call of the model."""

    token_ids_BT: Tensor
    positions_BT: Tensor
    """Positions within the document; [1, T] if all rows have the same positions."""
    n_past: int = 0
    """P, the number of tokens in the cache."""
    documents_BT: Tensor | None = None
    """Document number of each token; tokens see only their own document. Not supported with a cache."""
    forced_experts: dict[int, Tensor] = field(default_factory=dict)
    """Expert choices [N, k] by layer that replace the router's choice (anticipatory routing, replay in RL)."""
    routing: dict[int, Routing] = field(default_factory=dict)
    """Routing decisions by layer; each layer stores its own."""
    index_divergence: dict[int, IndexDivergence] = field(default_factory=dict)
    """Indexer divergences by layer; stored by layers that train an indexer."""
    _runs: tuple[Run, ...] | None = None
    _masks: dict[int | None, Tensor | None] = field(default_factory=dict)
    _block_masks: dict[int | None, BlockMask] = field(default_factory=dict)
    _rotations: dict[tuple[RopeParameters, int], Rotation] = field(default_factory=dict)
    _half_split: dict[tuple[RopeParameters, int, torch.dtype], Rotation] = field(default_factory=dict)

    @property
    def n_tokens(self) -> int:
        """T, the number of tokens of this call."""
        return self.token_ids_BT.shape[1]

    def rotation(self, rope: RopeParameters, r: int) -> Rotation:
        """Return cos and sin of this call's positions, fp32, [B or 1, T, r/2]."""
        key = (rope, r)
        if key not in self._rotations:
            self._rotations[key] = rotation(rope, r, self.positions_BT)
        return self._rotations[key]

    def half_split_rotation(self, rope: RopeParameters, r: int, dtype: torch.dtype) -> Rotation:
        """Return the tables of `rotate_half_split` for this call's positions."""
        key = (rope, r, dtype)
        if key not in self._half_split:
            self._half_split[key] = half_split(self.rotation(rope, r), dtype)
        return self._half_split[key]

    def is_plain_causal(self, window: int | None) -> bool:
        """Whether the mask is exactly causal; attention kernels have a fast path for this case."""
        fits = window is None or window >= self.n_past + self.n_tokens
        return fits and self.documents_BT is None and self.n_past == 0

    def runs(self, window: int | None) -> tuple[Run, ...]:
        """Return the runs of tokens for which attention is exactly causal.

        The result is one run for all rows, or one run per packed document. It is empty on a GPU, where reading
        document borders would block, and for tensors without values (compilation, fake tensors).
        """
        ids = self.token_ids_BT
        if self.n_past or ids.device.type != "cpu" or type(ids) is not Tensor or torch.compiler.is_compiling():
            return ()
        runs = self._runs
        if runs is None:
            runs = self._runs = _runs_of(len(ids), self.n_tokens, self.documents_BT)
        fits = window is None or window >= max(run.end - run.start for run in runs)
        return runs if fits else ()

    def block_mask(self, window: int | None) -> BlockMask | None:
        """Return the mask as blocks for `block_attention`; None if another form of the mask is used.

        Blocks are used on a GPU, without a cache, when documents or a window make the mask more than causal.
        """
        device = self.token_ids_BT.device
        if device.type not in BLOCK_DEVICES or self.n_past or self.is_plain_causal(window):
            return None
        if window not in self._block_masks:
            from modelstack.architecture.attention.block_attention import make_block_mask

            self._block_masks[window] = make_block_mask(self.documents_BT, self.n_tokens, window, device)
        return self._block_masks[window]

    def mask(self, window: int | None, n_keys: int) -> Tensor | None:
        """Return the mask, bool [B or 1, 1, T, n_keys], True where a key is seen; None: everything is seen.

        Args:
            window: Number of keys that a token sees, including itself; None: all keys up to the token.
            n_keys: Number of available keys, newest last; less than S if a cache has dropped old keys.
        """
        if self.n_tokens == 1 and (window is None or n_keys <= window):
            return None
        key = window if n_keys == self.n_past + self.n_tokens else -n_keys
        if key not in self._masks:
            self._masks[key] = self._make_mask(window, n_keys)
        return self._masks[key]

    def _make_mask(self, window: int | None, n_keys: int) -> Tensor:
        device = self.token_ids_BT.device
        end = self.n_past + self.n_tokens
        query = torch.arange(self.n_past, end, device=device)[:, None]
        key = torch.arange(end - n_keys, end, device=device)[None, :]
        seen = key <= query
        if window is not None:
            seen = seen & (query - key < window)
        seen = seen[None, None]
        if self.documents_BT is not None:
            same = self.documents_BT[:, None, :, None] == self.documents_BT[:, None, None, :]
            seen = seen & same
        return seen


def _runs_of(n_rows: int, n_tokens: int, documents_BT: Tensor | None) -> tuple[Run, ...]:
    if documents_BT is None:
        return (Run(0, n_rows, 0, n_tokens),)
    is_new = (documents_BT[:, 1:] != documents_BT[:, :-1]).tolist()
    runs = []
    for row, news in enumerate(is_new):
        edges = [0, *(place for place, new in enumerate(news, 1) if new), n_tokens]
        runs += [Run(row, row + 1, start, end) for start, end in pairwise(edges)]
    return tuple(runs)
