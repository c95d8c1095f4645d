"""Prefix reuse for several conversations in one KV cache.

Each conversation owns one sequence of the cache and the list of tokens evaluated in it. A new prompt keeps the
exact common prefix with its own sequence, or borrows a longer one from another conversation, and drops the rest.
Borrowing is free in a unified cache: cells are shared, not copied. At least one prompt token is always left to
evaluate, since logits exist only for tokens of the last call.

A sequence is open while a reply is written in it. Open sequences lend their tokens too, but no other prompt takes
one, and none is evicted. Two replies of one conversation at the same time are written in two sequences.

The invariant: `tokens` grows only after the backend has evaluated them, and shrinks with the cache. `check`
compares both sides and runs after every step in tests, like mini-sglang's cache check.

Some memories (recurrent, sliding window) refuse a partial removal. `KVMemory` then returns False, and the whole
prompt is evaluated and reported as such.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from modelstack.inference.engine import EngineError


class KVMemory(Protocol):
    """The KV cache as llama.cpp's memory functions present it; positions count from 0."""

    def remove(self, sequence: int, start: int) -> bool:
        """Drop positions `start` and up; False if this memory cannot do that. From 0 it never fails."""
        ...

    def copy(self, source: int, target: int, n_positions: int) -> None:
        """Share the first `n_positions` of `source` with the empty `target`."""
        ...

    def extent(self, sequence: int) -> tuple[int, int]:
        """Return the lowest and the highest position held; (-1, -1) if empty."""
        ...


@dataclass(slots=True)
class Slot:
    """A sequence of the cache, and the conversation that owns it."""

    sequence: int
    conversation: str | None = None
    tokens: list[int] = field(default_factory=list[int])
    """The tokens that the cache holds of this conversation, by position."""
    cells: list[int] = field(default_factory=list[int])
    """The cell of each token, by a number that slots share if they share the cell."""
    last_used: int = 0
    is_open: bool = False
    """Whether a reply is being written in the sequence."""


class PrefixCache:
    """The owner of each sequence, and the tokens evaluated in it."""

    def __init__(self, memory: KVMemory, n_sequences: int) -> None:
        """Start with `n_sequences` free sequences."""
        self._memory = memory
        self._slots = [Slot(i) for i in range(n_sequences)]
        self._clock = itertools.count(1)
        self._cells = itertools.count()

    def open(self, conversation: str, prompt_ids: Sequence[int]) -> Slot | None:
        """Return a slot of the conversation, with the longest prefix of the prompt that any sequence holds.

        `len(slot.tokens)` prompt tokens are reused, always fewer than the prompt has. The slot is open until
        `release`. None if all slots are open.
        """
        prompt = list(prompt_ids)
        limit = len(prompt) - 1
        best = max(self._slots, key=lambda slot: common_prefix_length(slot.tokens, prompt))
        n_best = min(common_prefix_length(best.tokens, prompt), limit)
        slot = self._closed_slot_of(conversation) or self._claim(conversation)
        if slot is None:
            return None
        slot.is_open = True
        n_own = min(common_prefix_length(slot.tokens, prompt), limit)
        slot.last_used = next(self._clock)
        if n_best > n_own:
            self._borrow(slot, best, n_best)
        else:
            self.shorten(slot, n_own)
        return slot

    def release(self, slot: Slot) -> None:
        """Close a slot, whose tokens stay cached unless its conversation was forgotten meanwhile."""
        slot.is_open = False
        if slot.conversation is None:
            self._clear(slot)

    def extend(self, slot: Slot, ids: Sequence[int]) -> None:
        """Record tokens that were evaluated at the end of a slot's sequence."""
        slot.tokens.extend(ids)
        slot.cells.extend(itertools.islice(self._cells, len(ids)))

    def shorten(self, slot: Slot, n_tokens: int) -> None:
        """Drop all tokens of a slot but the first `n_tokens`; all of them if the memory cannot drop a part."""
        sequence = slot.sequence
        removed = n_tokens > 0 and self._memory.remove(sequence, n_tokens)
        if removed and self._memory.extent(sequence) == (0, n_tokens - 1):
            del slot.tokens[n_tokens:], slot.cells[n_tokens:]
        else:
            self._empty(slot)

    def n_new_cells(self, ids: Sequence[int]) -> int:
        """Return the number of cells that a sequence of these tokens needs besides those of open slots."""
        ids = list(ids)
        return len(ids) - max((common_prefix_length(s.tokens, ids) for s in self._slots if s.is_open), default=0)

    @property
    def n_open_cells(self) -> int:
        """Number of cells that open slots hold."""
        return len(set().union(*(slot.cells for slot in self._slots if slot.is_open)))

    @property
    def is_empty(self) -> bool:
        """Whether no sequence holds a token, so that the next one gets the same cells as in a new process."""
        return not any(slot.tokens for slot in self._slots)

    def restore(self, slot: Slot, tokens: Sequence[int], n_kept: int, load: Callable[[int], bool]) -> bool:
        """Fill the slot's sequence with `tokens` by `load`, and keep the first `n_kept` of them.

        If that fails, the slot is empty and the result is False.
        """
        self._empty(slot)
        if load(slot.sequence) and self._memory.extent(slot.sequence) == (0, len(tokens) - 1):
            self.extend(slot, tokens)
        self.shorten(slot, n_kept if slot.tokens else 0)
        return bool(slot.tokens)

    def forget(self, conversation: str) -> None:
        """Free the conversation's sequences, open ones when they are released; unknown names are ignored."""
        for slot in self._slots:
            if slot.conversation == conversation:
                if slot.is_open:
                    slot.conversation = None
                else:
                    self._clear(slot)

    def evict(self) -> bool:
        """Free the least recently used sequence that is not open; False if there is none left."""
        closed = [slot for slot in self._slots if not slot.is_open and slot.conversation is not None]
        if not closed:
            return False
        self._clear(min(closed, key=lambda slot: slot.last_used))
        return True

    def conversations(self) -> dict[str, int]:
        """Return the number of cached tokens of each conversation."""
        by_use = sorted(self._slots, key=lambda slot: slot.last_used)
        return {slot.conversation: len(slot.tokens) for slot in by_use if slot.conversation is not None}

    def check(self) -> None:
        """Compare the token lists with the backend's memory.

        Raises:
            EngineError: they differ; the next reply could be computed from wrong entries.
        """
        for slot in self._slots:
            assert len(slot.cells) == len(slot.tokens)
            expected = (0, len(slot.tokens) - 1) if slot.tokens else (-1, -1)
            held = self._memory.extent(slot.sequence)
            if held != expected:
                raise EngineError(
                    f"cache of sequence {slot.sequence} ({slot.conversation!r}) holds positions {held}, "
                    f"recorded are {expected}"
                )

    def _closed_slot_of(self, conversation: str) -> Slot | None:
        """Return the conversation's most recently used slot that is not open."""
        own = [slot for slot in self._slots if slot.conversation == conversation and not slot.is_open]
        return max(own, key=lambda slot: slot.last_used, default=None)

    def _claim(self, conversation: str) -> Slot | None:
        """Return a free slot for a new conversation, or the least recently used one with its content."""
        closed = (slot for slot in self._slots if not slot.is_open)
        slot = min(closed, key=lambda slot: (slot.conversation is not None, slot.last_used), default=None)
        if slot is not None:
            slot.conversation = conversation
        return slot

    def _borrow(self, slot: Slot, source: Slot, n_tokens: int) -> None:
        self._empty(slot)
        self._memory.copy(source.sequence, slot.sequence, n_tokens)
        if self._memory.extent(slot.sequence) == (0, n_tokens - 1):
            slot.tokens, slot.cells = source.tokens[:n_tokens], source.cells[:n_tokens]
        else:  # the prefix of a recurrent state cannot be copied
            self._empty(slot)

    def _empty(self, slot: Slot) -> None:
        self._memory.remove(slot.sequence, 0)
        slot.tokens, slot.cells = [], []

    def _clear(self, slot: Slot) -> None:
        self._empty(slot)
        slot.conversation, slot.last_used = None, 0


def common_prefix_length(left: list[int], right: list[int]) -> int:
    """Return the length of the common beginning of two lists, by bisection over slice comparisons in C."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low
