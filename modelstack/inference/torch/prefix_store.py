"""Prefixes of a torch engine's prompts on disk: a new process starts with the keys and values of an earlier one.

When a reply has ended, the fixed part of its prompt (system text and tools) is stored in whole blocks, if the
caller wishes the rest of the conversation too. A later process that is asked for the same tokens restores them. A
conversation is a chain of pieces, each stored under the tokens before it, so that conversations share what they
have in common and a turn writes only what is new. A piece of which only the beginning agrees is used as far as it
agrees. Restored blocks are cached blocks like any others: requests find them by their digests.

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

from modelstack.inference.blocks import TokenChain
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

    def __init__(self, store: StateStore, batch: StreamBatch, fingerprint: str, *, keeps_all: bool) -> None:
        """Connect a store with an engine's batch.

        Args:
            store: The folder of states.
            batch: The batch that owns blocks and cache.
            fingerprint: Identifies the weights, the numbers of the products and those of the cache.
            keeps_all: Whether whole conversations are stored, not only the fixed parts of their prompts.
        """
        weight = next(batch.model.parameters())
        depends = [_FORMAT, fingerprint, str(weight.dtype), weight.device.type, torch.__version__, processor()]
        self._key = hashlib.sha256(json.dumps(depends).encode()).digest()
        self._store, self._batch, self._keeps_all = store, batch, keeps_all
        self._writer: threading.Thread | None = None

    def restore(self, prompt: Sequence[int], n_fixed: int) -> int:
        """Put the stored beginning of a prompt into free blocks; return the number of tokens that it adds.

        0: the cache holds as much already, nothing is stored, or there are too few free blocks.

        Args:
            prompt: The prompt.
            n_fixed: Number of its leading tokens that other prompts share.
        """
        pool = self._batch.queue.pool
        n_most = (len(prompt) - 1 if self._keeps_all else n_fixed) // pool.block_tokens * pool.block_tokens
        chain = TokenChain([*prompt[:n_most], -1], block_tokens=pool.block_tokens)
        n_before = len(pool.lookup(chain).blocks) * pool.block_tokens
        if n_most - n_before < MIN_TOKENS:
            return 0
        end, start = 0, -1
        while end > start:
            start, end = end, self._restored_to(chain, end)
        return len(pool.lookup(chain).blocks) * pool.block_tokens - n_before

    def _restored_to(self, chain: TokenChain, start: int) -> int:
        """Restore one piece; return where it ends, which is `start` if there is none or it does not fit."""
        pool, B = self._batch.queue.pool, self._batch.queue.pool.block_tokens
        wanted, key = chain.tokens[start:-1], self._key_at(chain, start)
        held = self._store.closest_tokens(key, wanted, MIN_TOKENS)
        n = 0 if held is None else common_prefix_length(held, wanted) // B * B
        hit = pool.lookup(chain)
        n_cached = len(hit.blocks) * B
        if held is None or n < MIN_TOKENS or start + n < n_cached + MIN_TOKENS:
            return start + n
        found = self._store.get(key, held)
        layers = None if found is None else self._layers_of(found.state, len(held))
        if layers is None or n_cached < start or (start + n - n_cached) // B > pool.n_free - hit.n_free:
            return start
        table = pool.open(hit)
        pool.reserve(table, start + n)
        new = slice((n_cached - start) // B, n // B)
        self._batch.put(table.blocks[len(hit.blocks) :], [[part[new] for part in layer] for layer in layers])
        pool.write(table, chain, start + n)
        pool.release(table)
        return start + n

    def keep(self, stream: Stream, n_fixed: int) -> None:
        """Store what is not stored yet of a stream that has been evaluated: a piece, or two."""
        B = self._batch.queue.pool.block_tokens
        ends = [n_fixed // B * B]
        if self._keeps_all:
            ends.append(stream.table.n_tokens // B * B)
        pieces, start = list[tuple[bytes, list[int], list[list[Tensor]]]](), 0
        for end in (end for end in ends if end <= stream.table.n_tokens):
            start = self._stored_to(stream.chain, start, end)
            if end - start < MIN_TOKENS:
                continue
            layers = self._batch.taken(stream.table.blocks[start // B : end // B])
            if sum(part.nbytes for layer in layers for part in layer) >= self._store.max_bytes:
                break
            pieces.append((self._key_at(stream.chain, start), list(stream.tokens[start:end]), layers))
            start = end
        if not pieces:
            return

        def write() -> None:
            for key, tokens, layers in pieces:
                self._store.put(key, tokens, _state_of(layers))

        self.wait()
        # Not a daemon: the interpreter waits for it before it exits.
        self._writer = threading.Thread(target=write, name="prompt prefix")
        self._writer.start()

    def _stored_to(self, chain: TokenChain, start: int, end: int) -> int:
        """Return the end of the stored pieces that follow `start`, at most `end`."""
        while end - start >= MIN_TOKENS:
            key, wanted = self._key_at(chain, start), list(chain.tokens[start:end])
            if self._store.has(key, wanted):
                return end
            held = self._store.closest_tokens(key, wanted, MIN_TOKENS)
            if held is None or wanted[: len(held)] != held or len(held) % self._batch.queue.pool.block_tokens:
                break
            start += len(held)
        return start

    def _key_at(self, chain: TokenChain, start: int) -> bytes:
        """Return the key of the pieces that begin after the chain's first `start` tokens."""
        if start == 0:
            return self._key
        return hashlib.sha256(self._key + chain.digest(start // self._batch.queue.pool.block_tokens - 1)).digest()

    def wait(self) -> None:
        """Wait until the last prefix is written."""
        if self._writer is not None:
            self._writer.join()

    def _layers_of(self, state: NDArray[np.uint8], n_tokens: int) -> list[list[Tensor]] | None:
        """Return the parts of each layer, [F, B, G, n]; None if the state has another size."""
        B, layers = self._batch.queue.pool.block_tokens, self._batch.parts
        sizes = [n_tokens * part.token_bytes for parts in layers for part in parts]
        if state.nbytes != sum(sizes) or n_tokens % B:
            return None
        pieces = iter(torch.from_numpy(state).split(sizes))
        # A copy is aligned, which a view as a larger type requires.
        return [
            [
                next(pieces).clone().view(part.dtype).view(n_tokens // B, B, part.n_heads, part.n_numbers)
                for part in parts
            ]
            for parts in layers
        ]


def _state_of(layers: Sequence[Sequence[Tensor]]) -> NDArray[np.uint8]:
    """Return the bytes of the parts of all layers, one after another."""
    return np.concatenate([part.cpu().view(torch.uint8).numpy().reshape(-1) for parts in layers for part in parts])
