"""The fixed part of a prompt: restored from disk if an earlier process evaluated it, stored otherwise.

A reply must not change by a single bit. A state is therefore stored and used only where evaluation would give the
same result:

- Its key covers everything that the bytes depend on: weights, adapter and scale, the library's files, the
  processor, number format, flash attention, and the sizes of cache and batch.
- It is taken from a cache without other conversations, because they change the order in which attention sums up.
  Of several agents in one process, only the prompt of the first is stored.
- The engine evaluates a fixed part in separate batches, so that the batches after it are the same after a restore.
  A beginning of a stored state is used only if batch sizes change nothing.

A reply waits for the disk only while a state is restored: a state is copied when the reply is complete, and a
thread hashes and writes it. A model that was never hashed has no states, so restoring never computes the key.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from typing import Any

from modelstack.inference.llama.fingerprint import ModelFingerprint
from modelstack.inference.llama.library import library, library_files
from modelstack.inference.llama.model import LlamaContext
from modelstack.inference.remembered import RememberedFacts, processor
from modelstack.inference.sequences import PrefixCache, Slot, common_prefix_length
from modelstack.inference.state_store import StateStore

MIN_FIXED_TOKENS = 64
"""Number of tokens below which evaluation costs no more than opening a file."""


class PromptStates:
    """The stored states of one engine's prompts. Used under the engine's lock."""

    def __init__(
        self,
        store: StateStore,
        context: LlamaContext,
        cache: PrefixCache,
        *,
        spare_sequence: int,
        settings: dict[str, Any],
        fingerprint: ModelFingerprint,
        batch_invariant: Callable[[], bool],
    ) -> None:
        """Connect a store with the parts of an engine.

        Args:
            store: The stored states.
            context: The context that holds the sequences.
            cache: The conversations that own the sequences.
            spare_sequence: A sequence that no conversation uses.
            settings: Settings that states depend on, besides files and processor.
            fingerprint: Identifies the weights and the adapter.
            batch_invariant: Returns whether batch sizes change nothing; called only if needed.
        """
        self._store = store
        self._context = context
        self._cache = cache
        self._spare = spare_sequence
        self._settings = settings
        self._fingerprint = fingerprint
        self._batch_invariant = batch_invariant
        self._facts = RememberedFacts(store.folder)
        self._known_key: bytes | None = None
        self._writer: threading.Thread | None = None

    def restore(self, slot: Slot, fixed: list[int]) -> int:
        """Fill a slot with the stored state that covers most of `fixed`; return the number of tokens it holds.

        0 means that nothing was restored: the slot holds as much already, nothing is stored, or llama.cpp refused
        the state.
        """
        n_least = len(slot.tokens) + MIN_FIXED_TOKENS
        key = self._key(may_hash=False) if len(fixed) >= n_least else None
        if key is None:
            return 0
        found = self._store.get(key, fixed)
        n_kept = len(fixed)
        if found is None:
            found = self._store.closest(key, fixed, n_least)
            if found is None or not self._is_invariant(key):
                return 0
            n_kept = common_prefix_length(found.tokens, fixed)
        state = found.state
        is_restored = self._cache.restore(
            slot, found.tokens, n_kept, lambda sequence: self._context.load(sequence, state)
        )
        return n_kept if is_restored else 0

    def keep(self, slot: Slot, fixed: list[int]) -> None:
        """Store the state of `fixed`, which a slot holds at its beginning, unless it is stored already."""
        key = self._key(may_hash=False)
        if slot.tokens[: len(fixed)] != fixed or (key is not None and self._store.has(key, fixed)):
            return
        self._context.copy(slot.sequence, self._spare, len(fixed))
        is_whole = self._context.extent(self._spare) == (0, len(fixed) - 1)
        fits = self._context.state_bytes(self._spare) < self._store.max_bytes
        state = self._context.save(self._spare) if is_whole and fits else None
        self._context.remove(self._spare, 0)
        if state is None:
            return

        def write() -> None:
            key = self._key(may_hash=True)
            if key is not None and not self._store.has(key, fixed):
                self._store.put(key, fixed, state)

        self.wait()
        # Not a daemon: the interpreter waits for it before it exits.
        self._writer = threading.Thread(target=write, name="prompt state")
        self._writer.start()

    def wait(self) -> None:
        """Wait until the last state is written."""
        if self._writer is not None:
            self._writer.join()

    def _is_invariant(self, key: bytes) -> bool:
        """Whether a part of a state equals its evaluation; measured once per key, with about 20 tokens."""
        known = self._facts.invariance(key)
        if known is None:
            known = self._batch_invariant()
            self._facts.learn_invariance(key, known)
        return known

    def _key(self, *, may_hash: bool) -> bytes | None:
        """Return the key of this engine's states; None if a file is missing or its hash is unknown."""
        if self._known_key is None:
            try:
                files = self._fingerprint.of_files(library_files(), may_hash=may_hash)
                model = self._fingerprint.value(may_hash=may_hash)
            except OSError:
                return None
            if files is None or model is None:
                return None
            system = library().llama_print_system_info().decode()
            content = json.dumps([model, files, system, processor(), self._settings], sort_keys=True)
            self._known_key = hashlib.sha256(content.encode()).digest()
        return self._known_key
