"""Learning about a drafter: rates of guesses that were not drafted, and its time when it does not catch up."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from modelstack.inference.speculation import speculation as module
from modelstack.inference.speculation.draft_lengths import AcceptanceRates
from modelstack.inference.speculation.speculation import PAUSE, DraftedReply, Guess, Speculation


class AnyReply:
    """A reply without a grammar."""

    def legal_beginning(self, ids: list[int]) -> list[int]:
        return ids


class CostlyDrafter:
    """Guesses the same tokens always, and takes as long as it is told to."""

    is_costly = True

    def __init__(self, clock: list[float]) -> None:
        self.rates = AcceptanceRates(np.full(3, 2.0), np.full(3, 4.0))
        self.seconds = 0.0
        self._clock = clock

    def guess(self, each: DraftedReply, n_tokens: int) -> Guess:
        self._clock[0] += self.seconds
        return Guess([1, 2, 3])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    return now


def a_reply() -> DraftedReply:
    return DraftedReply((), cast(Any, AnyReply()), None)


def counts(drafter: CostlyDrafter) -> list[tuple[float, float]]:
    """Return accepted and tried tokens by place, without what was believed at first."""
    rates = cast(Any, drafter.rates)
    return list(zip((rates._accepted - 2).tolist(), (rates._tried - 4).tolist(), strict=True))


def test_a_guess_that_was_not_drafted_is_followed_to_its_first_wrong_token(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelstack.inference.speculation.draft_lengths.RATE_MEMORY", float("inf"))
    drafter = CostlyDrafter(clock)
    speculation, reply = Speculation(drafter), a_reply()

    def write(*ids: int, guessed: bool = False, n_drafted: int = 0) -> None:
        reply.guess = Guess([1, 2, 3]) if guessed else None
        speculation.learn(reply, ids, n_drafted)

    write(1, guessed=True)
    assert counts(drafter) == [(0, 0), (0, 0), (0, 0)], "the guess is followed"
    write(2)
    write(3)
    assert counts(drafter) == [(1, 1), (1, 1), (1, 1)]
    write(1, guessed=True)
    write(9, guessed=True)  # of this guess the first token is known to be wrong
    assert counts(drafter) == [(2, 3), (1, 2), (1, 1)]
    write(1, 2, 9, guessed=True, n_drafted=3)
    assert counts(drafter) == [(3, 4), (2, 3), (1, 2)]
    write(9, guessed=True)
    assert counts(drafter) == [(3, 5), (2, 3), (1, 2)]


def test_the_time_to_catch_up_after_a_pause_is_not_that_of_a_guess(clock: list[float]) -> None:
    drafter = CostlyDrafter(clock)
    speculation, reply = Speculation(drafter), a_reply()
    for n_tokens in (1, 1, 4, 4):
        speculation.costs.add(n_tokens, 1.0)
    drafter.seconds = 900.0
    assert speculation.draft([reply], 8) == [[1, 2, 3]], "the first guess reads the prompt"
    drafter.seconds = 0.1
    assert speculation.draft([reply], 8) == [[1, 2, 3]]
    drafter.seconds = 900.0
    while speculation.draft([reply], 8) != [[]]:
        pass
    n_steps = 1
    drafter.seconds = 0.1
    while speculation.draft([reply], 8) == [[]]:
        n_steps += 1
    assert n_steps % (PAUSE + 1) == 0, "it is asked after each pause, and its time is forgotten little by little"
    assert n_steps < 100 * PAUSE
