"""Prefix reuse and eviction over fake KV memories, the exact ones and the ones that refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from modelstack.inference.engine import EngineError
from modelstack.inference.sequences import PrefixCache, common_prefix_length


class FakeMemory:
    """Positions per sequence; `partial` False behaves like a recurrent state."""

    def __init__(self, *, partial: bool = True) -> None:
        self.held: dict[int, int] = {}
        self.partial = partial
        self.copies: list[tuple[int, int, int]] = []

    def remove(self, sequence: int, start: int) -> bool:
        n = self.held.get(sequence, 0)
        if 0 < start < n and not self.partial:
            return False
        self.held[sequence] = min(n, start)
        return True

    def copy(self, source: int, target: int, n_positions: int) -> None:
        assert self.held.get(target, 0) == 0
        self.copies.append((source, target, n_positions))
        self.held[target] = n_positions if self.partial else self.held[source]

    def extent(self, sequence: int) -> tuple[int, int]:
        n = self.held.get(sequence, 0)
        return (0, n - 1) if n else (-1, -1)


def run(cache: PrefixCache, memory: FakeMemory, conversation: str, prompt: list[int]) -> int:
    """Open, evaluate the rest as an engine would, and return how many tokens were reused."""
    slot = cache.open(conversation, prompt)
    assert slot is not None
    n_reused = len(slot.tokens)
    assert slot.tokens == prompt[:n_reused]
    assert n_reused < len(prompt)
    memory.held[slot.sequence] = len(prompt)
    cache.extend(slot, prompt[n_reused:])
    cache.release(slot)
    cache.check()
    return n_reused


def test_a_growing_conversation_evaluates_only_what_is_new() -> None:
    memory = FakeMemory()
    cache = PrefixCache(memory, 2)
    assert run(cache, memory, "a", [1, 2, 3]) == 0
    assert run(cache, memory, "a", [1, 2, 3, 4, 5]) == 3
    assert run(cache, memory, "a", [1, 2, 9]) == 2
    assert memory.held[0] == 3


def test_the_same_prompt_again_leaves_one_token_to_evaluate() -> None:
    memory = FakeMemory()
    cache = PrefixCache(memory, 1)
    run(cache, memory, "a", [1, 2, 3])
    assert run(cache, memory, "a", [1, 2, 3]) == 2
    assert run(cache, memory, "a", [1]) == 0


def test_a_new_conversation_borrows_the_longest_prefix_of_another() -> None:
    memory = FakeMemory()
    cache = PrefixCache(memory, 3)
    run(cache, memory, "a", [1, 2, 3, 4])
    run(cache, memory, "b", [1, 2, 7])
    assert memory.copies == [(0, 1, 2)]
    assert run(cache, memory, "c", [1, 2, 3, 4, 5]) == 4
    assert run(cache, memory, "a", [1, 2, 3, 4, 6]) == 4
    assert cache.conversations() == {"a": 5, "b": 3, "c": 5}


def test_when_slots_run_out_the_least_recently_used_conversation_gives_way() -> None:
    memory = FakeMemory()
    cache = PrefixCache(memory, 2)
    run(cache, memory, "a", [1, 2, 3])
    run(cache, memory, "b", [4, 5])
    run(cache, memory, "a", [1, 2, 3, 4])
    run(cache, memory, "c", [9, 9])
    assert cache.conversations() == {"a": 4, "c": 2}


def test_a_conversation_that_takes_over_a_slot_keeps_the_prefix_found_there() -> None:
    memory = FakeMemory()
    cache = PrefixCache(memory, 1)
    run(cache, memory, "a", [1, 2, 3, 4])
    assert run(cache, memory, "b", [1, 2, 3, 9]) == 3
    assert memory.copies == []


def test_eviction_spares_open_slots_and_ends_when_nothing_is_left() -> None:
    memory = FakeMemory()
    cache = PrefixCache(memory, 3)
    for name in "abc":
        run(cache, memory, name, [ord(name), 1])
    assert cache.open("a", [ord("a"), 1, 2]) is not None
    assert cache.evict()
    assert cache.conversations().keys() == {"a", "c"}
    assert cache.evict()
    assert not cache.evict()
    cache.check()


def test_an_open_slot_lends_its_tokens_and_nobody_takes_it() -> None:
    memory = FakeMemory()
    cache = PrefixCache(memory, 2)
    first = cache.open("a", [1, 2, 3])
    assert first is not None
    memory.held[first.sequence] = 3
    cache.extend(first, [1, 2, 3])
    assert cache.n_open_cells == 3 and cache.n_new_cells([1, 2, 9, 9]) == 2
    second = cache.open("a", [1, 2, 3])  # another reply of the same conversation
    assert second is not None and second is not first and second.tokens == [1, 2]
    assert cache.n_open_cells == 3, "shared cells count once"
    assert cache.open("b", [1]) is None
    cache.release(first)
    third = cache.open("b", [7])
    assert third is not None and third is first and third.tokens == []
    cache.check()


def test_a_conversation_that_is_forgotten_while_its_slot_is_open_is_freed_with_it() -> None:
    memory = FakeMemory()
    cache = PrefixCache(memory, 2)
    slot = cache.open("a", [1, 2])
    assert slot is not None
    memory.held[slot.sequence] = 2
    cache.extend(slot, [1, 2])
    cache.forget("a")
    assert slot.tokens == [1, 2] and cache.conversations() == {}
    cache.release(slot)
    assert cache.is_empty and memory.held[slot.sequence] == 0


def test_forgetting_frees_the_sequence_and_ignores_unknown_names() -> None:
    memory = FakeMemory()
    cache = PrefixCache(memory, 2)
    run(cache, memory, "a", [1, 2])
    cache.forget("a")
    cache.forget("nobody")
    assert cache.conversations() == {}
    assert memory.held[0] == 0


def test_a_memory_without_partial_removal_starts_anew_and_reports_it() -> None:
    memory = FakeMemory(partial=False)
    cache = PrefixCache(memory, 2)
    run(cache, memory, "a", [1, 2, 3])
    assert run(cache, memory, "a", [1, 2, 3, 4]) == 3
    assert run(cache, memory, "a", [1, 2, 9]) == 0
    assert run(cache, memory, "b", [1, 2, 9, 5]) == 3
    assert run(cache, memory, "c", [1, 2, 7]) == 0


def test_a_difference_between_books_and_memory_is_found() -> None:
    memory = FakeMemory()
    cache = PrefixCache(memory, 1)
    run(cache, memory, "a", [1, 2, 3])
    memory.held[0] = 2
    with pytest.raises(EngineError, match="recorded are"):
        cache.check()


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.lists(st.integers(0, 2), min_size=1, max_size=12)), max_size=30
    ),
    st.integers(1, 4),
    st.booleans(),
)
def test_books_and_memory_agree_over_any_history(
    history: list[tuple[str, list[int]]], n_sequences: int, partial: bool
) -> None:
    memory = FakeMemory(partial=partial)
    cache = PrefixCache(memory, n_sequences)
    for conversation, prompt in history:
        run(cache, memory, conversation, prompt)
    assert len(cache.conversations()) <= n_sequences


@given(st.lists(st.integers(0, 1), max_size=40), st.lists(st.integers(0, 1), max_size=40))
def test_common_prefix_length_is_that_of_a_plain_loop(left: list[int], right: list[int]) -> None:
    expected = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        expected += 1
    assert common_prefix_length(left, right) == expected


class FakeStates:
    """Copies of the sequences of a `FakeMemory`, as their numbers of positions."""

    def __init__(self, memory: FakeMemory, *, can_save: bool = True) -> None:
        self.memory = memory
        self.can_save = can_save

    def save(self, sequence: int) -> NDArray[np.uint8] | None:
        return np.zeros(self.memory.held[sequence], np.uint8) if self.can_save else None

    def load(self, sequence: int, state: NDArray[np.uint8]) -> bool:
        assert self.memory.held.get(sequence, 0) == 0
        self.memory.held[sequence] = state.size
        return True


def parking(memory: FakeMemory, *, max_parked_tokens: int = 100, can_save: bool = True) -> PrefixCache:
    return PrefixCache(memory, 3, FakeStates(memory, can_save=can_save), max_parked_tokens)


def test_a_sequence_that_opens_alone_finds_the_cells_free_and_closed_ones_parked() -> None:
    memory = FakeMemory()
    cache = parking(memory)
    run(cache, memory, "a", [1, 2, 3, 4])
    assert run(cache, memory, "b", [1, 2, 7]) == 2
    assert memory.held == {0: 0, 1: 3}
    assert memory.copies == []  # a shared cell would lie before those of another sequence
    assert run(cache, memory, "a", [1, 2, 3, 4, 5]) == 4
    assert cache.conversations() == {"b": 3, "a": 5}


def test_a_sequence_beside_an_open_one_loads_what_was_parked() -> None:
    memory = FakeMemory()
    cache = parking(memory)
    run(cache, memory, "a", [1, 2, 3, 4])
    run(cache, memory, "b", [8, 9])
    held = cache.open("b", [8, 9, 10])
    assert held is not None
    assert run(cache, memory, "a", [1, 2, 3, 5]) == 3
    assert memory.held[held.sequence] == 2


def test_only_entries_computed_alone_and_in_order_are_exact() -> None:
    memory = FakeMemory()
    cache = parking(memory)
    run(cache, memory, "a", [1, 2, 3, 4])
    open_slot = cache.open("a", [1, 2, 3, 4, 5])
    assert open_slot is not None
    memory.held[open_slot.sequence] = 5
    cache.extend(open_slot, [5])
    run(cache, memory, "b", [1, 2, 9])
    memory.held[open_slot.sequence] = 6
    cache.extend(open_slot, [6])  # beside b
    cache.release(open_slot)
    assert [slot.n_exact for slot in cache._slots] == [5, 2, 0]
    exact = cache.open("c", [1, 2, 3, 4, 5, 6, 7], "exact")
    assert exact is not None
    assert exact.tokens == [1, 2, 3, 4, 5]
    cache.release(exact)
    none = cache.open("a", [1, 2, 3, 4, 5, 6, 7], "none")
    assert none is not None
    assert none.tokens == []


def test_the_least_recently_used_copies_give_way() -> None:
    memory = FakeMemory()
    cache = parking(memory, max_parked_tokens=5)
    for name, prompt in (("a", [1, 2, 3]), ("b", [4, 5, 6]), ("c", [7, 8, 9])):
        run(cache, memory, name, prompt)
    assert cache.conversations() == {"b": 3, "c": 3}
    assert not any(slot.conversation == "b" and slot.parked is None for slot in cache._slots)
    assert cache.evict()  # c, whose tokens are in cells
    assert cache.conversations() == {"b": 3}
    assert not cache.evict()


def test_a_state_that_cannot_be_saved_is_evaluated_again() -> None:
    memory = FakeMemory()
    cache = parking(memory, can_save=False)
    run(cache, memory, "a", [1, 2, 3])
    assert run(cache, memory, "b", [1, 2, 4]) == 0
    assert run(cache, memory, "a", [1, 2, 3]) == 0
