"""What all layers of one forward pass share: positions, documents, masks and rotations, each computed once.

Masks are asked for by their meaning (`window`), not passed from layer to layer, so an attention kind takes what it
needs and the model file stays one line long. Layers leave their routing here for the losses to read.

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

if TYPE_CHECKING:  # it loads torch's compiler, which inference on a CPU has no use for
    from torch.nn.attention.flex_attention import BlockMask


BLOCK_DEVICES = ("cuda",)
"""Kinds of devices on which FlexAttention trains: on CPUs it has no backward pass."""


class Routing:
    """What one layer's router decided, N = B * T tokens, E experts, k chosen.

    No dataclass: FSDP looks for tensors with a gradient in the dataclasses that a module is given, and copies
    those that hold any. What later layers leave in a copied context would be lost.
    """

    __slots__ = ("logits_NE", "scores_NE", "experts_Nk")

    def __init__(self, logits_NE: Tensor, scores_NE: Tensor, experts_Nk: Tensor) -> None:
        """Take the scores before and after their function, and the choice."""
        self.logits_NE, self.scores_NE, self.experts_Nk = logits_NE, scores_NE, experts_Nk


class IndexDivergence:
    """How far one layer's indexer is from where its attention went, for each token. No dataclass, as `Routing`."""

    __slots__ = ("divergence_BT", "sees_any_BT")

    def __init__(self, divergence_BT: Tensor, sees_any_BT: Tensor) -> None:
        """Take the divergences, fp32, 0 where a token sees no entry, and bool whether it sees any."""
        self.divergence_BT, self.sees_any_BT = divergence_BT, sees_any_BT


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens [start, end) of rows [first_row, end_row): each sees itself and those before it in its row."""

    first_row: int
    end_row: int
    start: int
    end: int


@dataclass(slots=True)
class ForwardContext:
    """One call's shared facts."""

    token_ids_BT: Tensor
    positions_BT: Tensor
    """Positions in the document; [1, T] where all rows agree."""
    n_past: int = 0
    """P."""
    documents_BT: Tensor | None = None
    """A number for each packed document; tokens see their own document only. Not together with a cache."""
    forced_experts: dict[int, Tensor] = field(default_factory=dict)
    """Expert choices [N, k] by layer, instead of the router's own (anticipatory routing, replay in RL)."""
    routing: dict[int, Routing] = field(default_factory=dict)
    """By layer, filled by the layers."""
    index_divergence: dict[int, IndexDivergence] = field(default_factory=dict)
    """By layer, filled by layers that train an indexer."""
    _runs: tuple[Run, ...] | None = None
    _masks: dict[int | None, Tensor | None] = field(default_factory=dict)
    _block_masks: dict[int | None, BlockMask] = field(default_factory=dict)
    _rotations: dict[tuple[RopeParameters, int], Rotation] = field(default_factory=dict)
    _half_split: dict[tuple[RopeParameters, int, torch.dtype], Rotation] = field(default_factory=dict)

    @property
    def n_tokens(self) -> int:
        """Return T."""
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
        """Whether "each token sees all before it" is the whole mask: attention kernels have a fast path for it."""
        fits = window is None or window >= self.n_past + self.n_tokens
        return fits and self.documents_BT is None and self.n_past == 0

    def runs(self, window: int | None) -> tuple[Run, ...]:
        """Return the runs of tokens that see one another, where "all before it in its run" is the whole mask.

        That is one for all rows, or one for each packed document. There are none on a GPU, which would have to be
        waited for, and none where there are no numbers to be looked at (a compiler, a fake tensor).
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
        """Return who sees whom as blocks, for `block_attention`; None where another form serves.

        That is on a GPU, without a past, where documents or a window make the mask more than causal.
        """
        device = self.token_ids_BT.device
        if device.type not in BLOCK_DEVICES or self.n_past or self.is_plain_causal(window):
            return None
        if window not in self._block_masks:
            from modelstack.architecture.attention.block_attention import make_block_mask

            self._block_masks[window] = make_block_mask(self.documents_BT, self.n_tokens, window, device)
        return self._block_masks[window]

    def mask(self, window: int | None, n_keys: int) -> Tensor | None:
        """Return who sees whom, bool [B or 1, 1, T, n_keys], True where seen; None: everything is seen.

        Args:
            window: Keys that a token sees, itself included; None: all before it.
            n_keys: Keys on offer, the newest last; fewer than S where a cache has dropped old ones.
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
