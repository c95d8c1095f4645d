"""Prefixes of a torch engine's prompts on disk: a new process starts with the keys and values of an earlier one.

The fixed part of a prompt (system text and tools) is stored when its reply has ended, in whole blocks, and is
restored when a later process is asked for the same tokens. A stored prefix of which only the beginning agrees is
used as far as it agrees. Restored blocks are cached blocks like any others: requests find them by their digests.

Files are those of `state_store`: private, verified, limited in bytes. Their key covers weights, number formats of
model and cache, torch's version and the processor. Reading never delays other requests by more than the read; a
thread writes.

Letters: F blocks, B tokens of a block, G KV heads, n numbers of a part (see `kv_numbers`).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelstack.inference.blocks import BlockTable, TokenChain
from modelstack.inference.remembered import processor
from modelstack.inference.sequences import common_prefix_length
from modelstack.inference.state_store import StateStore
from modelstack.inference.streams import Stream
from modelstack.inference.torch.stream_batch import StreamBatch

MIN_TOKENS = 64
"""Number of tokens below which evaluation costs no more than opening a file; as for llama.cpp."""
_FORMAT = 1
"""Version of the layout of a state."""


class PrefixStore:
    """The stored prefixes of one engine. Used under the engine's lock."""

    def __init__(self, store: StateStore, batch: StreamBatch, fingerprint: str) -> None:
        """Connect a store with an engine's batch.

        Args:
            store: The folder of states.
            batch: The batch that owns blocks and cache.
            fingerprint: Identifies the weights, the numbers of the products and those of the cache.
        """
        weight = next(batch.model.parameters())
        depends = [_FORMAT, fingerprint, str(weight.dtype), weight.device.type, torch.__version__, processor()]
        self._key = hashlib.sha256(json.dumps(depends).encode()).digest()
        self._store, self._batch = store, batch
        self._writer: threading.Thread | None = None

    def restore(self, prompt: Sequence[int], n_fixed: int) -> int:
        """Put the stored beginning of a prompt into free blocks; return the number of tokens that it adds.

        0: the cache holds as much already, nothing is stored, or there are too few free blocks.

        Args:
            prompt: The prompt.
            n_fixed: Number of its leading tokens that other prompts share.
        """
        pool = self._batch.queue.pool
        B = pool.block_tokens
        fixed = list(prompt[: n_fixed // B * B])
        n_cached = len(pool.lookup(TokenChain([*fixed, -1], block_tokens=B)).blocks) * B
        n_least = n_cached + MIN_TOKENS
        if len(fixed) < n_least:
            return 0
        found = self._store.get(self._key, fixed) or self._store.closest(self._key, fixed, n_least)
        if found is None:
            return 0
        n = common_prefix_length(found.tokens, fixed) // B * B
        layers = self._layers_of(found.state, len(found.tokens))
        if n < n_least or n // B > pool.n_free or layers is None:
            return 0
        chain, table = TokenChain(fixed[:n], block_tokens=B), BlockTable()
        pool.reserve(table, n)
        self._batch.put(table.blocks, [[part[: n // B] for part in layer] for layer in layers])
        pool.write(table, chain, n)
        pool.release(table)
        return n - n_cached

    def keep(self, stream: Stream, n_fixed: int) -> None:
        """Store the beginning of a stream that has been evaluated, unless it is stored already."""
        B = self._batch.queue.pool.block_tokens
        n = n_fixed // B * B
        fixed = list(stream.tokens[:n])
        if n < MIN_TOKENS or n > stream.table.n_tokens or self._store.has(self._key, fixed):
            return
        layers = self._batch.taken(stream.table.blocks[: n // B])
        if sum(part.nbytes for layer in layers for part in layer) >= self._store.max_bytes:
            return

        def write() -> None:
            self._store.put(self._key, fixed, _state_of(layers))

        self.wait()
        # Not a daemon: the interpreter waits for it before it exits.
        self._writer = threading.Thread(target=write, name="prompt prefix")
        self._writer.start()

    def wait(self) -> None:
        """Wait until the last prefix is written."""
        if self._writer is not None:
            self._writer.join()

    def _layers_of(self, state: NDArray[np.uint8], n_tokens: int) -> list[list[Tensor]] | None:
        """Return the parts of each layer, [F, B, G, n]; None if the state has another size."""
        B, G = self._batch.queue.pool.block_tokens, self._batch.model.config.num_key_value_heads
        parts = [*self._batch.kv_numbers.keys.parts(), *self._batch.kv_numbers.values.parts()]
        n_layers = self._batch.model.config.num_hidden_layers
        sizes = [n_tokens * G * n * dtype.itemsize for dtype, n in parts] * n_layers
        if state.nbytes != sum(sizes) or n_tokens % B:
            return None
        pieces = iter(torch.from_numpy(state).split(sizes))
        # A copy is aligned, which a view as a larger type requires.
        return [
            [next(pieces).clone().view(dtype).view(n_tokens // B, B, G, n) for dtype, n in parts]
            for _ in range(n_layers)
        ]


def _state_of(layers: Sequence[Sequence[Tensor]]) -> NDArray[np.uint8]:
    """Return the bytes of the parts of all layers, one after another."""
    return np.concatenate([part.cpu().view(torch.uint8).numpy().reshape(-1) for parts in layers for part in parts])
