"""Batches of llama.cpp over numpy arrays that C reads in place.

A conversation appends tokens to one sequence (`SequenceBatch`). Rollouts write many continuations together, one
token of each per step (`RowBatch`): the weights are read once for all of them, so a step of eight replies costs
little more than a step of one.

Letters: R rows, one token of a sequence each.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class SequenceBatch:
    """Tokens of one sequence."""

    def __init__(self, lib: Any, capacity: int) -> None:
        """Allocate `capacity` tokens; `lib` is the C API."""
        self._tokens = np.zeros(capacity, dtype=np.int32)
        self._positions = np.zeros(capacity, dtype=np.int32)
        self._n_sequences = np.ones(capacity, dtype=np.int32)
        self._sequence = np.zeros(1, dtype=np.int32)
        self._pointers = np.full(capacity, self._sequence.ctypes.data, dtype=np.uintp)
        self._want_logits = np.zeros(capacity, dtype=np.int8)
        self._offsets = np.arange(capacity, dtype=np.int32)
        self._batch = _llama_batch(
            lib, self._tokens, self._positions, self._n_sequences, self._pointers, self._want_logits
        )

    def fill(self, ids: Sequence[int], position: int, sequence: int, want_logits: int) -> Any:
        """Return the llama_batch of some tokens; the next call overwrites it.

        Args:
            ids: At most as many tokens as were allocated.
            position: Position of the first token.
            sequence: The sequence of all tokens.
            want_logits: Number of last tokens whose logits are computed.
        """
        n = len(ids)
        self._tokens[:n] = ids
        self._positions[:n] = self._offsets[:n] + position
        self._sequence[0] = sequence
        self._want_logits[:n] = 0
        self._want_logits[n - want_logits : n] = 1
        self._batch.n_tokens = n
        return self._batch


class RowBatch:
    """Tokens of different sequences, with logits after every token."""

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
        self._batch = _llama_batch(
            lib, self._tokens, self._positions, self._n_sequences, self._pointers, self._want_logits
        )

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
            raise ValueError(
                f"{n} tokens, {len(positions_R)} positions and {len(sequences_R)} sequences; "
                "their numbers must be equal"
            )
        if n > self.capacity:
            raise ValueError(f"the batch has {n} rows; its capacity is {self.capacity}")
        self._tokens[:n], self._positions[:n], self._sequences[:n] = tokens_R, positions_R, sequences_R
        self._batch.n_tokens = n
        return self._batch


def _llama_batch(lib: Any, *arrays: NDArray[Any]) -> Any:
    """Return a llama_batch whose fields point to arrays, which the caller must keep."""
    batch = lib.llama_batch()
    types = dict(lib.llama_batch._fields_)
    for name, array in zip(("token", "pos", "n_seq_id", "seq_id", "logits"), arrays, strict=True):
        setattr(batch, name, ctypes.cast(array.ctypes.data, types[name]))
    return batch
