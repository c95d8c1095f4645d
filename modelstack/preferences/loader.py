"""Batches of units: their first documents, then their second, a document a row.

Letters: B units of a batch, 2B rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.data.packing import Row
from modelstack.preferences.units import Units
from modelstack.sft.loader import PADDING, RowLoader, SftLoaderConfig


@dataclass(frozen=True, slots=True, eq=False)
class UnitBatch(Batch):
    """2B rows of B units; labels are the replies' tokens, aligned to the places that predict them."""

    units_B: Tensor = field(kw_only=True)
    """Numbers of the units, int64, by which the reference's log-probabilities are found; stays on the CPU."""

    def to(self, device: torch.device) -> UnitBatch:
        """Return the batch on a device."""
        if self.ids_BT.device == device:
            return self
        ids_BT, labels_BT, documents_BT = (x.to(device) for x in (self.ids_BT, self.labels_BT, self.documents_BT))
        return UnitBatch(ids_BT, labels_BT, documents_BT, self.position, units_B=self.units_B)


class UnitLoader(RowLoader):
    """The `Loader` of units, those of similar length together."""

    def __init__(self, units: Units, config: SftLoaderConfig, *, units_per_batch: int) -> None:
        """Stand before the first batch.

        Raises:
            UserError: The shares do not fit the sources, or a document not a row.
        """
        super().__init__(units, config.model_copy(update={"layout": "padded"}), rows_per_batch=units_per_batch)
        self._units = units

    def _batch(self, rows: Sequence[Row], position: int) -> UnitBatch:
        return unit_batch(self._units, [row[0].document for row in rows], position)


def unit_batch(units: Units, numbers: Sequence[int], position: int = 0) -> UnitBatch:
    """Return the tensors of some units; padding belongs to the document before it, which never looks at it."""
    documents = [units.document(number, second) for second in (False, True) for number in numbers]
    T = max(len(ids) for ids, _ in documents) - 1  # a last token predicts nothing
    ids_BT = np.full((len(documents), T), PADDING, np.int64)
    labels_BT = np.full((len(documents), T), IGNORED, np.int64)
    for b, (ids, is_target) in enumerate(documents):
        n = len(ids) - 1
        ids_BT[b, :n] = ids[:-1]
        labels_BT[b, :n] = np.where(is_target[1:], ids[1:], IGNORED)
    return UnitBatch(
        torch.from_numpy(ids_BT),
        torch.from_numpy(labels_BT),
        torch.zeros(ids_BT.shape, dtype=torch.int64),
        position,
        units_B=torch.tensor(numbers, dtype=torch.int64),
    )
