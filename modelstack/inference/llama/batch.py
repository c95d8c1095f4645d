"""A batch of llama.cpp over numpy arrays that C reads in place; filling it takes microseconds.

A batch holds tokens of one or more sequences. Several sequences that write together read the weights once: a step
of eight replies costs little more than a step of one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

DECODE_OK, DECODE_NO_ROOM = 0, 1
"""Return codes of llama_decode; all others are failures."""
MAX_REPLY_BATCH = 32
"""Maximum number of tokens of replies evaluated at once.

Up to this size, logits with llama.cpp's flash attention equal those of single tokens bit for bit. From 64 on it
uses other kernels, and logits differ by up to 0.9 (measured with SmolLM2-135M in Q4_1;
`LlamaCppEngine.batch_invariant` tells whether any size matters).
"""


class SequencePart(NamedTuple):
    """Consecutive tokens of a sequence."""

    sequence: int
    position: int
    """Position of the first token."""
    ids: Sequence[int]
    n_logits: int = 1
    """Number of last tokens whose logits are computed."""


class TokenBatch:
    """Tokens of any sequences."""

    def __init__(self, lib: Any, capacity: int) -> None:
        """Allocate `capacity` tokens; `lib` is the C API."""
        self.capacity = capacity
        self._tokens = np.zeros(capacity, dtype=np.int32)
        self._positions = np.zeros(capacity, dtype=np.int32)
        self._offsets = np.arange(capacity, dtype=np.int32)
        self._n_sequences = np.ones(capacity, dtype=np.int32)
        self._sequences = np.zeros(capacity, dtype=np.int32)
        # seq_id is an array of pointers: that of token n points to the n-th sequence number.
        step = self._sequences.itemsize
        self._pointers = (self._sequences.ctypes.data + step * np.arange(capacity)).astype(np.uintp)
        self._want_logits = np.zeros(capacity, dtype=np.int8)
        self._batch = _llama_batch(
            lib, self._tokens, self._positions, self._n_sequences, self._pointers, self._want_logits
        )

    def fill(self, parts: Sequence[SequencePart]) -> Any:
        """Return the llama_batch of some parts, in their order; the next call overwrites it.

        Raises:
            ValueError: there are more tokens than allocated.
        """
        n_tokens = sum(len(part.ids) for part in parts)
        if n_tokens > self.capacity:
            raise ValueError(f"the batch has {n_tokens} tokens; its capacity is {self.capacity}")
        self._want_logits[:n_tokens] = 0
        start = 0
        for sequence, position, ids, n_logits in parts:
            end = start + len(ids)
            self._tokens[start:end] = ids
            np.add(self._offsets[: end - start], position, out=self._positions[start:end])
            self._sequences[start:end] = sequence
            self._want_logits[end - n_logits : end] = 1
            start = end
        self._batch.n_tokens = n_tokens
        return self._batch


def _llama_batch(lib: Any, *arrays: NDArray[Any]) -> Any:
    """Return a llama_batch whose fields point to arrays, which the caller must keep."""
    batch = lib.llama_batch()
    types = dict(lib.llama_batch._fields_)
    for name, array in zip(("token", "pos", "n_seq_id", "seq_id", "logits"), arrays, strict=True):
        setattr(batch, name, ctypes.cast(array.ctypes.data, types[name]))
    return batch
