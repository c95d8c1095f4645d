"""Doubles for engines: models whose logits depend on the tokens so far, and grammars from a table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.batched_engine import BatchedEngine
from modelstack.inference.engine import GenerateRequest, Generation, require_room
from modelstack.inference.grammar import GrammarError, TokenMask
from modelstack.inference.llama.batch import DECODE_NO_ROOM, DECODE_OK, SequencePart
from modelstack.inference.llama.sequence_queue import SequenceQueue, SequenceStream
from modelstack.inference.pending_reply import PendingReply
from modelstack.inference.reply import Reply
from modelstack.inference.sequences import PrefixCache
from modelstack.inference.speculation.speculation import DrafterName, lookup_drafter

N_VOCAB = 40
END = 0
SPECIAL = 4

Logits = Callable[[list[int]], NDArray[np.float32]]
"""Returns the logits after some tokens."""


def write_alone(prompt: Sequence[int], reply: Reply, logits: Logits) -> Generation:
    """Write a reply with a model that evaluates all tokens anew for each."""
    while reply.advance():
        reply.take(logits([*prompt, *reply.out.ids]))
    return reply.out


class FakeVocabulary:
    """Tokens without text."""

    end_ids = (END,)
    special_ids = frozenset({SPECIAL})

    def __len__(self) -> int:
        return N_VOCAB


class FakeContext:
    """A unified cache of `n_cells`, as llama.cpp's: the logits come from a function of a sequence's tokens."""

    def __init__(self, logits: Logits | None = None, n_cells: int = 10_000) -> None:
        self.n_cells = n_cells
        self.calls: list[list[list[int]]] = []
        """The tokens of each part of each call."""
        self.fails = False
        self.drops_parts = True
        """Whether a part of a sequence can be removed; recurrent states refuse it."""
        self._held: dict[int, list[tuple[int, int]]] = {}
        """Cell and token of each position, by sequence."""
        self._cells = itertools.count()
        self._logits = logits or hashed_logits
        self._found: list[NDArray[np.float32]] = []

    def tokens(self, sequence: int = 0) -> list[int]:
        return [token for _, token in self._held.get(sequence, [])]

    @property
    def n_used(self) -> int:
        return len({cell for held in self._held.values() for cell, _ in held})

    def evaluate_parts(self, parts: Sequence[SequencePart]) -> int:
        if self.fails:
            return -3
        if self.n_used + sum(len(part.ids) for part in parts) > self.n_cells:
            return DECODE_NO_ROOM
        self.calls.append([list(part.ids) for part in parts])
        self._found = []
        for part in parts:
            held = self._held.setdefault(part.sequence, [])
            assert part.position == len(held), "positions must follow each other"
            held += [(next(self._cells), token) for token in part.ids]
            tokens = self.tokens(part.sequence)
            ends = range(len(tokens) - part.n_logits + 1, len(tokens) + 1)
            self._found += [self._logits(tokens[:end]) for end in ends]
        return DECODE_OK

    def logits_of_rows(self, n_rows: int) -> NDArray[np.float32]:
        assert len(self._found) == n_rows or n_rows == 0
        return np.array(self._found if n_rows else np.empty((0, N_VOCAB)), np.float32)

    def remove(self, sequence: int, start: int) -> bool:
        if start and not self.drops_parts:
            return False
        del self._held.setdefault(sequence, [])[start:]
        return True

    def copy(self, source: int, target: int, n_positions: int) -> None:
        assert not self._held.get(target)
        self._held[target] = self._held[source][:n_positions]

    def layer_states(self) -> None:
        """Return no states."""

    def extent(self, sequence: int) -> tuple[int, int]:
        n = len(self._held.get(sequence, []))
        return (0, n - 1) if n else (-1, -1)


class FakeEngine(BatchedEngine[SequenceStream]):
    """The llama.cpp engine over a `FakeContext`."""

    def __init__(
        self,
        context: FakeContext,
        *,
        n_batch: int = 16,
        n_sequences: int = 4,
        drafter: DrafterName | None = None,
    ) -> None:
        super().__init__(cast(Any, FakeVocabulary()), seed=0, drafter=lookup_drafter(drafter))
        self.context = context
        self.cache = PrefixCache(context, n_sequences)
        self.queue = SequenceQueue(context, self.cache, context.n_cells, n_batch)

    def forget(self, conversation: str) -> None:
        with self._turn():
            self.cache.forget(conversation)

    def forget_all(self) -> None:
        for conversation in self.cache.conversations():
            self.forget(conversation)

    def _room_for(self, request: GenerateRequest) -> int:
        return require_room(len(request.prompt_ids), self.queue.n_cells, option="n_cells")

    def _enter(self, submission: PendingReply[SequenceStream], max_tokens: int) -> SequenceStream:
        request, out = submission.request, submission.reply.out
        return self.queue.submit(
            request.prompt_ids,
            out.ids,
            out.stats,
            conversation=request.conversation,
            n_fixed=request.fixed_tokens,
            priority=request.priority,
        )

    def check_integrity(self) -> None:
        self.cache.check()
        assert self.cache.n_open_cells <= self.context.n_used

    @property
    def _evaluation(self) -> SequenceQueue:
        return self.queue

    def _leave(self, submission: PendingReply[SequenceStream], stream: SequenceStream) -> None:
        self.queue.remove(stream)

    def _free(self) -> None:
        pass


def hashed_logits(tokens: list[int]) -> NDArray[np.float32]:
    """Logits that any change of the tokens changes; the end token is improbable."""
    seed = 0
    for token in tokens:
        seed = (seed * 31 + token + 1) % 2**32
    logits = np.random.default_rng(seed).normal(scale=2, size=N_VOCAB).astype(np.float32)
    logits[END] = -20
    return logits


def mask_of(ids: Sequence[int], n_vocab: int = N_VOCAB) -> TokenMask:
    """Set the bits of `ids`."""
    mask = np.zeros((n_vocab + 31) // 32, dtype=np.uint32)
    for token in ids:
        mask[token // 32] |= np.uint32(1 << (token % 32))
    return mask


class ScriptedGrammar:
    """Allows the i-th set of tokens at step i; a set of one is forced where `force` says so."""

    def __init__(
        self,
        steps: Sequence[Sequence[int]],
        *,
        n_vocab: int = N_VOCAB,
        force: bool = True,
        choosing: Sequence[int] = (),
        decisions: Mapping[int, Sequence[int]] = MappingProxyType({}),
        stand_in: tuple[Sequence[int], int] | None = None,
    ) -> None:
        self.steps = [list(step) for step in steps]
        self.position = 0
        self._n_vocab = n_vocab
        self._force = force
        self._choosing = choosing
        self._decisions = decisions
        self._stand_in = stand_in

    @property
    def finished(self) -> bool:
        return self.position == len(self.steps)

    @property
    def accepting(self) -> bool:
        return self.finished

    @property
    def choosing(self) -> bool:
        return self.position in self._choosing

    @property
    def decision(self) -> TokenMask | None:
        ids = self._decisions.get(self.position)
        return None if ids is None else mask_of(ids, self._n_vocab)

    @property
    def stand_in(self) -> tuple[TokenMask, int] | None:
        if self._stand_in is None or self.position:
            return None
        return mask_of(self._stand_in[0], self._n_vocab), self._stand_in[1]

    @property
    def closing_reserve(self) -> int:
        return 0

    def mask(self) -> TokenMask:
        return mask_of(self.steps[self.position], self._n_vocab)

    closing = mask

    def forced(self) -> list[int]:
        block = []
        for step in self.steps[self.position :] if self._force else []:
            if len(step) != 1:
                break
            block.append(step[0])
        return block

    def n_legal(self, ids: Sequence[int]) -> int:
        steps = self.steps[self.position :]
        return next((n for n, token in enumerate(ids) if n >= len(steps) or token not in steps[n]), len(ids))

    def advance(self, token_id: int) -> None:
        if self.finished or token_id not in self.steps[self.position]:
            raise GrammarError(f"{token_id} at step {self.position}")
        self.position += 1

    def rollback(self, n_tokens: int) -> None:
        self.position -= n_tokens


class BracketGrammar:
    """`(` opens, `)` closes, letters anywhere inside; done when all are closed. Can always be closed."""

    OPEN, CLOSE, LETTER = 1, 2, 3

    def __init__(self, end_ids: Sequence[int] = (END,)) -> None:
        self.history: list[int] = []
        self.end_ids = list(end_ids)

    @property
    def depth(self) -> int:
        return self.history.count(self.OPEN) - self.history.count(self.CLOSE)

    @property
    def finished(self) -> bool:
        return bool(self.history) and self.depth == 0

    @property
    def accepting(self) -> bool:
        return self.finished

    @property
    def choosing(self) -> bool:
        return False

    @property
    def decision(self) -> TokenMask | None:
        return None

    @property
    def stand_in(self) -> None:
        return None

    @property
    def closing_reserve(self) -> int:
        return self.depth if self.history else 2

    def mask(self) -> TokenMask:
        if self.finished:
            return mask_of(self.end_ids)
        return mask_of([self.OPEN, self.CLOSE, self.LETTER] if self.history else [self.OPEN])

    def closing(self) -> TokenMask:
        return mask_of([self.CLOSE] if self.history else [self.OPEN])

    def forced(self) -> list[int]:
        return []

    def n_legal(self, ids: Sequence[int]) -> int:
        depth = self.depth
        for n, token in enumerate(ids):
            if token not in (self.OPEN, self.CLOSE, self.LETTER) or (depth == 0 and (self.history or n)):
                return n
            depth += (token == self.OPEN) - (token == self.CLOSE)
        return len(ids)

    def advance(self, token_id: int) -> None:
        self.history.append(token_id)

    def rollback(self, n_tokens: int) -> None:
        del self.history[len(self.history) - n_tokens :]
