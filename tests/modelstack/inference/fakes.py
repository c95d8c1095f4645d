"""Doubles for the decode loop: a model whose logits depend on the tokens so far, and a grammar from a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.grammar import GrammarError, TokenMask

N_VOCAB = 40
END = 0


class FakeModel:
    """Keeps the tokens it evaluated; the logits come from a function of them."""

    def __init__(self, logits: Callable[[list[int]], NDArray[np.float32]] | None = None) -> None:
        self.tokens: list[int] = []
        self.calls: list[list[int]] = []
        self._logits = logits or hashed_logits

    def __call__(self, ids: Sequence[int], *, want_logits: bool) -> NDArray[np.float32] | None:
        self.tokens += ids
        self.calls.append(list(ids))
        return self._logits(self.tokens) if want_logits else None


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

    def advance(self, token_id: int) -> None:
        self.history.append(token_id)

    def rollback(self, n_tokens: int) -> None:
        del self.history[len(self.history) - n_tokens :]
