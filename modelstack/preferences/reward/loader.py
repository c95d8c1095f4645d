"""Batches of pairs for a reward model: whole conversations with a mark on their last token.

The rows of `loader.UnitBatch` leave out the last token, because it predicts nothing. A reward is read at that
token.

Letters: B pairs of a batch, 2B rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.data.packing import Row
from modelstack.posttrain.row_loader import PADDING, RowLoader, RowOrder
from modelstack.preferences.units import Units


class PairLoader(RowLoader):
    """`Loader` of pairs; pairs of similar length form a batch."""

    def __init__(self, units: Units, config: RowOrder, *, rows_per_batch: int) -> None:
        """Initialise before the first batch.

        Args:
            units: Pairs to load.
            config: Order of the pairs.
            rows_per_batch: Pairs of a batch.

        Raises:
            UserError: The shares do not match the sources, or a conversation is longer than a row.
        """
        super().__init__(units, config, rows_per_batch=rows_per_batch)
        self._units = units

    def _batch(self, rows: Sequence[Row], position: int) -> Batch:
        return pair_batch(self._units, [row[0].document for row in rows], position)


def pair_batch(units: Units, numbers: Sequence[int], position: int = 0) -> Batch:
    """Return 2B rows, B chosen and then B rejected; the only label of a row is its last token, in place."""
    documents = [units.document(number, second)[0] for second in (False, True) for number in numbers]
    return scored_rows(documents, position)


def scored_rows(documents: Sequence[Sequence[int] | np.ndarray], position: int = 0) -> Batch:
    """Return one document a row, padded at its end; the only label of a row is its last token."""
    T = max(len(ids) for ids in documents)
    ids_BT = np.full((len(documents), T), PADDING, np.int64)
    labels_BT = np.full((len(documents), T), IGNORED, np.int64)
    for b, ids in enumerate(documents):
        ids_BT[b, : len(ids)] = ids
        labels_BT[b, len(ids) - 1] = ids[-1]
    ids, labels = torch.from_numpy(ids_BT), torch.from_numpy(labels_BT)
    return Batch(ids, labels, torch.zeros_like(ids), position)
