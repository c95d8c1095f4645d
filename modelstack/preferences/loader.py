"""Batches of units: the first documents of all units, then the second documents, one document a row.

Letters: B units of a batch, 2B rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modelstack.data.batches import Batch
from modelstack.data.packing import Row
from modelstack.posttrain.row_loader import RowLoader, RowOrder, padded_rows
from modelstack.preferences.units import Units


@dataclass(frozen=True, slots=True, eq=False)
class UnitBatch(Batch):
    """Batch of 2B rows of B units; labels are tokens of replies, at the positions that predict them."""

    units_B: Tensor = field(kw_only=True)
    """Numbers of the units, int64, stays on the CPU; indexes the reference's log-probabilities."""

    def to(self, device: torch.device) -> UnitBatch:
        """Return the batch on a device."""
        if self.ids_BT.device == device:
            return self
        ids_BT, labels_BT, documents_BT = (x.to(device) for x in (self.ids_BT, self.labels_BT, self.documents_BT))
        return UnitBatch(ids_BT, labels_BT, documents_BT, self.position, units_B=self.units_B)


class UnitLoader(RowLoader):
    """`Loader` of units; units of similar length form a batch."""

    def __init__(
        self, units: Units, config: RowOrder, *, rows_per_batch: int, rank: int = 0, world: int = 1
    ) -> None:
        """Initialise before the first batch.

        Args:
            units: Units to load.
            config: Order of the units.
            rows_per_batch: Units of a batch on this rank.
            rank: This process's number, from 0.
            world: Number of processes.

        Raises:
            UserError: The shares do not match the sources, the rank is not below `world`, or a document is longer
                than a row.
        """
        super().__init__(units, config, rows_per_batch=rows_per_batch, rank=rank, world=world)
        self._units = units

    def _batch(self, rows: Sequence[Row], position: int) -> UnitBatch:
        return unit_batch(self._units, [row[0].document for row in rows], position)


def unit_batch(units: Units, numbers: Sequence[int], position: int = 0) -> UnitBatch:
    """Return the batch of the units with these numbers."""
    documents = [units.document(number, second) for second in (False, True) for number in numbers]
    return UnitBatch(*padded_rows(documents), position, units_B=torch.tensor(numbers, dtype=torch.int64))
