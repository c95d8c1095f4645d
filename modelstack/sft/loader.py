"""Batches of tokenised examples, packed or padded, for fine-tuning.

Letters: B rows of a batch, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.data.packing import Row
from modelstack.posttrain.row_loader import PADDING, RowLoader, RowOrder
from modelstack.sft.tokenised import Tokenised


class SftLoader(RowLoader):
    """`Loader` of tokenised examples."""

    def __init__(
        self, data: Tokenised, config: RowOrder, *, rows_per_batch: int, rank: int = 0, world: int = 1
    ) -> None:
        """Initialise before the first batch.

        Args:
            data: The examples.
            config: Order of the rows.
            rows_per_batch: Rows of a batch on this rank.
            rank: This process's number, from 0.
            world: Number of processes.

        Raises:
            UserError: The shares do not match the sources, the rank is not below `world`, or an example is longer
                than a row.
        """
        super().__init__(data, config, rows_per_batch=rows_per_batch, rank=rank, world=world)
        self._data = data
        self._is_weighted = not data.are_weights_one

    def _batch(self, rows: Sequence[Row], position: int) -> Batch:
        """Return the tensors of planned rows.

        A batch is as long as its longest row. Padding after packed examples is a separate document. Padding after
        a single example has the same document number: causal attention hides it from the example, and a batch with
        one document a row needs no mask.
        """
        is_padded = self._config.layout == "padded"
        T = max(sum(piece.n_tokens for piece in row) for row in rows)
        shape = (len(rows), T)
        ids_BT = np.full(shape, PADDING, np.int64)
        labels_BT = np.full(shape, IGNORED, np.int64)
        weights_BT = np.zeros(shape, np.float32)
        documents_BT = np.zeros(shape, np.int64)
        counted_BT = np.ones(shape, np.bool_)
        for b, row in enumerate(rows):
            at = 0
            for number, piece in enumerate(row):
                end = at + piece.n_tokens
                ids, weights = self._data.document(piece.document)
                ids_BT[b, at:end] = ids[:-1]
                labels_BT[b, at:end] = np.where(weights[1:] > 0, ids[1:], IGNORED)
                weights_BT[b, at:end] = weights[1:]
                documents_BT[b, at:end] = number
                at = end
            if not is_padded:
                documents_BT[b, at:] = len(row)
            counted_BT[b, at:] = False
        return Batch(
            torch.from_numpy(ids_BT),
            torch.from_numpy(labels_BT),
            torch.from_numpy(documents_BT),
            position,
            weights_BT=torch.from_numpy(weights_BT) if self._is_weighted else None,
            counted_BT=None if counted_BT.all() else torch.from_numpy(counted_BT),
        )
