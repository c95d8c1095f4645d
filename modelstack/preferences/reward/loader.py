"""Batches of pairs for a reward model: whole conversations, their last token marked.

The rows of `loader.UnitBatch` lack the last token, which predicts nothing; a reward is read exactly there.

Letters: B pairs of a batch, 2B rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.data.packing import Row
from modelstack.preferences.units import Units
from modelstack.sft.loader import PADDING, RowLoader, SftLoaderConfig


class PairLoader(RowLoader):
    """The `Loader` of pairs, those of similar length together."""

    def __init__(self, units: Units, config: SftLoaderConfig, *, pairs_per_batch: int) -> None:
        """Stand before the first batch.

        Raises:
            UserError: The shares do not fit the sources, or a conversation not a row.
        """
        super().__init__(units, config.model_copy(update={"layout": "padded"}), rows_per_batch=pairs_per_batch)
        self._units = units

    def _batch(self, rows: Sequence[Row], position: int) -> Batch:
        return pair_batch(self._units, [row[0].document for row in rows], position)


def pair_batch(units: Units, numbers: Sequence[int], position: int = 0) -> Batch:
    """Return 2B rows, the chosen and then the rejected; a row's one label is its last token, where it stands."""
    documents = [units.document(number, second)[0] for second in (False, True) for number in numbers]
    return scored_rows(documents, position)


def scored_rows(documents: Sequence[Sequence[int] | np.ndarray], position: int = 0) -> Batch:
    """Return documents as rows, the last token of each as its label; padding behind is never looked at."""
    T = max(len(ids) for ids in documents)
    ids_BT = np.full((len(documents), T), PADDING, np.int64)
    labels_BT = np.full((len(documents), T), IGNORED, np.int64)
    for b, ids in enumerate(documents):
        ids_BT[b, : len(ids)] = ids
        labels_BT[b, len(ids) - 1] = ids[-1]
    ids, labels = torch.from_numpy(ids_BT), torch.from_numpy(labels_BT)
    return Batch(ids, labels, torch.zeros_like(ids), position)
