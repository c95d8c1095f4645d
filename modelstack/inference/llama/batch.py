"""A batch of llama.cpp with one token for each of many sequences: a step of many replies at once.

The batch of a conversation, in `model`, fills one sequence. Rollouts write many continuations together: the
weights are read once for all of them, so a step of eight replies costs little more than a step of one.

Letters: R rows, one token of a sequence each.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RowBatch:
    """A llama_batch over numpy arrays, with logits after every token."""

    def __init__(self, lib: Any, capacity: int) -> None:
        """Allocate `capacity` rows; `lib` is the C API."""
        self.capacity = capacity
        self._tokens = np.zeros(capacity, dtype=np.int32)
        self._positions = np.zeros(capacity, dtype=np.int32)
        self._n_sequences = np.ones(capacity, dtype=np.int32)
        self._sequences = np.zeros(capacity, dtype=np.int32)
        # seq_id is an array of pointers: that of row r points to the r-th sequence number.
        step = self._sequences.itemsize
        self._pointers = (self._sequences.ctypes.data + step * np.arange(capacity)).astype(np.uintp)
        self._want_logits = np.ones(capacity, dtype=np.int8)
        self._batch = lib.llama_batch()
        fields = dict(lib.llama_batch._fields_)
        for name, array in (
            ("token", self._tokens),
            ("pos", self._positions),
            ("n_seq_id", self._n_sequences),
            ("seq_id", self._pointers),
            ("logits", self._want_logits),
        ):
            setattr(self._batch, name, ctypes.cast(array.ctypes.data, fields[name]))

    def fill(
        self, tokens_R: NDArray[np.integer], positions_R: NDArray[np.integer], sequences_R: NDArray[np.integer]
    ) -> Any:
        """Return the llama_batch of these rows; the next call overwrites it.

        Raises:
            ValueError: there are more rows than allocated, or the numbers of tokens, positions and sequences
                differ.
        """
        n = len(tokens_R)
        if not n == len(positions_R) == len(sequences_R):
            raise ValueError(f"{n} tokens, {len(positions_R)} positions and {len(sequences_R)} sequences")
        if n > self.capacity:
            raise ValueError(f"{n} rows, and room was made for {self.capacity}")
        self._tokens[:n], self._positions[:n], self._sequences[:n] = tokens_R, positions_R, sequences_R
        self._batch.n_tokens = n
        return self._batch
