"""A turn under a budget: what no longer fits is taken back, and what was taken back is not learnt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from modelstack.errors import UserError
from modelstack.inference.grammar import GrammarError, TokenMask
from modelstack.inference.legal_tokens import LegalTokens
from modelstack.reasoning.sampling.turn_writer import Draws, TurnWriter, Written, log_share
from tests.modelstack.reasoning.policy.toy_policy import toy_encoder

SHORT, LONG, STEP = 65, 66, 67


class Fork:
    """A reply is `SHORT`, or `LONG` and then as many steps as it says; nobody knows before how long that is."""

    def __init__(self, n_steps: int) -> None:
        self.n_steps, self.taken = n_steps, list[int]()

    @property
    def finished(self) -> bool:
        return self.taken == [SHORT] or len(self.taken) == 1 + self.n_steps

    accepting = finished
    choosing = False
    decision = None

    @property
    def stand_in(self) -> None:
        return None

    @property
    def closing_reserve(self) -> int:
        return 1 + self.n_steps - len(self.taken) if self.taken[:1] == [LONG] else 1

    def mask(self) -> TokenMask:
        return _mask([STEP] if self.taken else [SHORT, LONG])

    def closing(self) -> TokenMask:
        return _mask([STEP] if self.taken else [SHORT])

    def forced(self) -> list[int]:
        return []

    def n_legal(self, ids: Sequence[int]) -> int:
        raise NotImplementedError("turns are written without drafts")

    def advance(self, token_id: int) -> None:
        if not self.mask()[token_id >> 5] >> np.uint32(token_id & 31) & np.uint32(1):
            raise GrammarError(f"{token_id} is not legal")
        self.taken.append(token_id)

    def rollback(self, n_tokens: int) -> None:
        del self.taken[-n_tokens:]


def _mask(ids: Sequence[int]) -> TokenMask:
    found = np.zeros((len(toy_encoder().vocabulary) + 31) // 32, dtype=np.uint32)
    for token in ids:
        found[token >> 5] |= np.uint32(1 << (token & 31))
    return found


def written(grammar: Fork, max_tokens: int) -> tuple[Written, TurnWriter]:
    encoder = toy_encoder()
    logits_V = np.zeros(len(encoder.vocabulary), dtype=np.float32)
    logits_V[LONG] = 30  # the policy is sure of the long way
    found = Written()
    turn = TurnWriter(found, Draws(encoder.vocabulary, encoder.end_ids, 1.0, seed=0), grammar, max_tokens)
    while not turn.is_over:
        turn.step(logits_V)
    return found, turn


def test_a_choice_that_fits_is_the_policys() -> None:
    found, turn = written(Fork(3), 5)
    assert found.ids == [LONG, STEP, STEP, STEP]
    assert found.is_chosen == [True, False, False, False]
    assert found.legal[0] is not None and found.legal[0].to_ids().tolist() == [SHORT, LONG]
    assert turn.ended_by is None and turn.content_ids == found.ids


def test_a_choice_whose_shortest_end_is_over_the_limit_is_taken_back_and_not_learnt() -> None:
    found, turn = written(Fork(9), 5)
    assert found.ids == [SHORT] and turn.is_cut
    assert (found.is_chosen, found.log_probs, found.legal) == ([False], [0.0], [None])


def test_log_shares_are_those_of_the_legal_tokens_at_the_temperature() -> None:
    logits_V = np.array([1.0, -2.0, 500.0, 0.5], dtype=np.float32)
    legal = LegalTokens.from_ids(np.array([0, 1, 3]))
    shares = [log_share(token, logits_V, legal, 0.5) for token in (0, 1, 3)]
    weights = np.exp(np.array([1.0, -2.0, 0.5]) / 0.5)
    assert shares == pytest.approx(np.log(weights / weights.sum()).tolist(), abs=1e-6)
    assert log_share(2, logits_V, LegalTokens.from_ids(np.array([2])), 0.5) == 0


def test_a_negative_temperature_is_refused() -> None:
    with pytest.raises(UserError, match="temperature is -1"):
        Draws(toy_encoder().vocabulary, toy_encoder().end_ids, -1, seed=0)
