"""What a loader gives and a training step takes.

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
    """Rows of packed documents."""

    ids_BT: Tensor
    """int64."""
    labels_BT: Tensor
    """The token to name at each place, or `losses.IGNORED`: at the end of each document, and in padding.

    Where a document was cut at the end of a row, its last token there has a label: the next row begins with it.
    """
    documents_BT: Tensor
    """A number for each document of a row; padding has one of its own, or in a row of one document that one's."""
    position: int
    """Rows given before this batch since the beginning of the run: which window of data this is."""
    forced_experts: Mapping[int, Tensor] = field(default_factory=dict[int, Tensor])
    """Expert choices [B * T, k] by layer, made before (anticipatory routing, replay); a router without chooses."""
    weights_BT: Tensor | None = None
    """How much each label counts, float32, at least 0; None: every one 1."""
    counted_BT: Tensor | None = None
    """bool, False for padding, which the balancing of experts and losses of layers leave out; None: no padding."""

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        if self.ids_BT.device == device:
            return self
        forced = {layer: experts.to(device) for layer, experts in self.forced_experts.items()}
        ids_BT, labels_BT, documents_BT = (x.to(device) for x in (self.ids_BT, self.labels_BT, self.documents_BT))
        weights_BT = None if self.weights_BT is None else self.weights_BT.to(device)
        counted_BT = None if self.counted_BT is None else self.counted_BT.to(device)
        return Batch(ids_BT, labels_BT, documents_BT, self.position, forced, weights_BT, counted_BT)

    @property
    def n_tokens(self) -> int:
        """Return B * T."""
        return self.ids_BT.numel()


class Loader(Protocol):
    """An endless source of batches that can be stopped and continued."""

    def __iter__(self) -> Iterator[Batch]:
        """Go on where the state says."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next batch depends on, what was read and not yet given included."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state.

        Raises:
            UserError: It is of other data or another configuration.
        """
        ...
