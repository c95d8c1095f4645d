"""Prefix reuse for several conversations in one KV cache.

Each conversation owns one sequence of the cache and the list of tokens evaluated in it. A new prompt keeps the
exact common prefix with its own sequence, or borrows a longer one from another conversation, and drops the rest.
Borrowing is free in a unified cache: cells are shared, not copied. At least one prompt token is always left to
evaluate, since logits exist only for tokens of the last call.

Attention sums over cells in the order of cells. Where a sequence lies therefore changes the last bits of its
entries and logits, and after some tokens the reply. With `states`, a sequence that opens while no other one is
open lies in the cells 0, 1, 2, ... as in a new process: the closed ones are parked, which copies their entries to
main memory. `Slot.n_exact` counts the entries that were computed in this order.

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
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

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


class SequenceStates(Protocol):
    """Copies of sequences in main memory, as llama.cpp's state functions make them."""

    def save(self, sequence: int) -> NDArray[np.uint8] | None:
        """Return the state of a sequence; None if it cannot be saved."""
        ...

    def load(self, sequence: int, state: NDArray[np.uint8]) -> bool:
        """Replace a sequence by a saved state, in free cells side by side; after False it is undefined."""
        ...


Reuse = Literal["any", "exact", "none"]
"""Entries that a prompt may reuse: all, those whose bits do not depend on other sequences, or none."""


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
    is_ordered: bool = False
    """Whether the tokens lie in the cells 0, 1, 2, ..., and the next ones will."""
    n_exact: int = 0
    """Number of leading tokens whose entries were computed while the sequence was ordered."""
    parked: NDArray[np.uint8] | None = None
    """State of the tokens in main memory; None: they are in cells."""


class PrefixCache:
    """The owner of each sequence, and the tokens evaluated in it."""

    def __init__(
        self, memory: KVMemory, n_sequences: int, states: SequenceStates | None = None, max_parked_tokens: int = 0
    ) -> None:
        """Start with free sequences.

        Args:
            memory: The cells.
            n_sequences: Number of sequences.
            states: Copies of closed sequences; None: they stay in their cells, and no entry is exact.
            max_parked_tokens: Number of tokens of all copies; the least recently used sequences are freed first.
        """
        self._memory = memory
        self._states = states
        self._max_parked_tokens = max_parked_tokens
        self._slots = [Slot(i) for i in range(n_sequences)]
        self._clock = itertools.count(1)
        self._cells = itertools.count()

    def open(self, conversation: str, prompt_ids: Sequence[int], reuse: Reuse = "any") -> Slot | None:
        """Return a slot of the conversation, with the longest reusable prefix that any sequence holds.

        `len(slot.tokens)` prompt tokens are reused, always fewer than the prompt has. The slot is open until
        `release`. None if all slots are open.
        """
        prompt = list(prompt_ids)

        def n_reusable(slot: Slot) -> int:
            most = {"any": len(prompt) - 1, "exact": min(len(prompt) - 1, slot.n_exact), "none": 0}[reuse]
            return min(common_prefix_length(slot.tokens, prompt), most)

        best = max(self._slots, key=n_reusable)
        slot = self._closed_slot_of(conversation) or self._claim(conversation)
        if slot is None:
            return None
        if n_reusable(slot) == n_reusable(best):
            best = slot
        slot.last_used = next(self._clock)
        self._fill(slot, best, n_reusable(best))
        slot.is_open = True
        return slot

    def release(self, slot: Slot) -> None:
        """Close a slot, whose tokens stay cached unless its conversation was forgotten meanwhile."""
        slot.is_open = False
        if slot.conversation is None:
            self._clear(slot)

    def extend(self, slot: Slot, ids: Sequence[int]) -> None:
        """Record tokens that were evaluated at the end of a slot's sequence."""
        if slot.is_ordered and slot.n_exact == len(slot.tokens):
            slot.n_exact += len(ids)
        slot.tokens.extend(ids)
        slot.cells.extend(itertools.islice(self._cells, len(ids)))

    def shorten(self, slot: Slot, n_tokens: int) -> None:
        """Drop all tokens of a slot but the first `n_tokens`; all of them if the memory cannot drop a part."""
        sequence = slot.sequence
        removed = n_tokens > 0 and self._memory.remove(sequence, n_tokens)
        if removed and self._memory.extent(sequence) == (0, n_tokens - 1):
            del slot.tokens[n_tokens:], slot.cells[n_tokens:]
            slot.n_exact = min(slot.n_exact, n_tokens)
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
        """Free the cells of the least recently used sequence that is not open; False if there is none left."""
        in_cells = (slot for slot in self._slots if not slot.is_open and slot.parked is None)
        closed = [slot for slot in in_cells if slot.conversation is not None]
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
            n_held = 0 if slot.parked is not None else len(slot.tokens)
            assert len(slot.cells) == n_held and slot.n_exact <= len(slot.tokens)
            expected = (0, n_held - 1) if n_held else (-1, -1)
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

    def _fill(self, slot: Slot, source: Slot, n_tokens: int) -> None:
        """Make the first tokens of `source`, which may be the slot itself, the tokens of a closed slot."""
        others = [each for each in self._slots if each is not slot]
        if self._states is None or any(each.is_open for each in others):
            for each in self._slots:  # the next cells of this slot lie between those of open ones
                each.is_ordered = each.is_ordered and not each.is_open and each is not slot
            self._take(slot, source, n_tokens)
            return
        for each in others:
            self._park(each, self._states)
        if source is slot and n_tokens and not slot.is_ordered:
            self._park(slot, self._states)
        slot.is_ordered = True
        self._take(slot, source, n_tokens)
        self._limit_parked()

    def _take(self, slot: Slot, source: Slot, n_tokens: int) -> None:
        """Move, share or load the first tokens of `source`."""
        if not n_tokens or not source.tokens:  # a state that cannot be saved is lost
            self._empty(slot)
        elif source.parked is not None and self._states is not None:
            states, state, n_exact = self._states, source.parked, min(source.n_exact, n_tokens)
            self.restore(slot, source.tokens, n_tokens, lambda sequence: states.load(sequence, state))
            slot.n_exact = min(n_exact, len(slot.tokens))
        elif source is slot:
            self.shorten(slot, n_tokens)
        else:
            self._borrow(slot, source, n_tokens)

    def _park(self, slot: Slot, states: SequenceStates) -> None:
        if slot.tokens and slot.parked is None:
            slot.parked = states.save(slot.sequence)
            if slot.parked is None:
                self._empty(slot)
            self._memory.remove(slot.sequence, 0)
            slot.cells = []

    def _limit_parked(self) -> None:
        parked = sorted((slot for slot in self._slots if slot.parked is not None), key=lambda slot: slot.last_used)
        n_excess = sum(len(slot.tokens) for slot in parked) - self._max_parked_tokens
        for slot in parked:
            if n_excess > 0:
                n_excess -= len(slot.tokens)
                self._clear(slot)

    def _borrow(self, slot: Slot, source: Slot, n_tokens: int) -> None:
        self._empty(slot)
        self._memory.copy(source.sequence, slot.sequence, n_tokens)
        if self._memory.extent(slot.sequence) == (0, n_tokens - 1):
            slot.tokens, slot.cells = source.tokens[:n_tokens], source.cells[:n_tokens]
            slot.n_exact = min(source.n_exact, n_tokens)
        else:  # the prefix of a recurrent state cannot be copied
            self._empty(slot)

    def _empty(self, slot: Slot) -> None:
        self._memory.remove(slot.sequence, 0)
        slot.tokens, slot.cells, slot.n_exact, slot.parked = [], [], 0, None

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
