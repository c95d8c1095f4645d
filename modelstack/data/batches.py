"""The batch that a loader returns and a training step consumes.

Letters: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Packed rows of documents, as tensors."""

    ids_BT: Tensor
    """Token ids, int64."""
    labels_BT: Tensor
    """Next-token targets, int64; `losses.IGNORED` at the end of each document and in padding.

    A document cut at the end of a row keeps a label on the last token of that row: the first token of the next
    piece.
    """
    documents_BT: Tensor
    """Document number within the row. Padding has its own number, except in a row that holds a single document."""
    position: int
    """Number of rows returned before this batch since the start of the run; identifies the window of data."""
    forced_experts: Mapping[int, Tensor] = field(default_factory=dict[int, Tensor])
    """Expert choices [B * T, k] by layer, fixed in advance (anticipatory routing, replay).

    A layer without an entry routes by itself.
    """
    weights_BT: Tensor | None = None
    """Loss weight of each label, float32, at least 0; None: all 1."""
    counted_BT: Tensor | None = None
    """Mask, bool; False for padding, which expert balancing and per-layer losses leave out. None: no padding."""

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`."""
        if self.ids_BT.device == device:
            return self
        forced = {layer: experts.to(device) for layer, experts in self.forced_experts.items()}
        ids_BT, labels_BT, documents_BT = (x.to(device) for x in (self.ids_BT, self.labels_BT, self.documents_BT))
        weights_BT = None if self.weights_BT is None else self.weights_BT.to(device)
        counted_BT = None if self.counted_BT is None else self.counted_BT.to(device)
        return Batch(ids_BT, labels_BT, documents_BT, self.position, forced, weights_BT, counted_BT)

    @property
    def n_tokens(self) -> int:
        """Number of tokens: B * T."""
        return self.ids_BT.numel()


class Loader(Protocol):
    """An endless source of batches that can be stopped and resumed."""

    def __iter__(self) -> Iterator[Batch]:
        """Iterate from the current position."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all state that the next batch depends on, including data read but not yet returned."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        Raises:
            UserError: The state belongs to other data or another configuration.
        """
        ...
