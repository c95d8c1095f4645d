"""Whether another call follows the one just written: where a reply decides it, and what is known beforehand.

A reply is a list of calls. Behind one of them either a comma leads to another or a bracket ends the list; tokens
like `},` and `}]` close the call and decide in one. Others decide by how text is cut into tokens: behind a number
SmolLM2 writes `}}` `]` and `}` `},`, so that its first brace tells already. `Endings` finds, for any place of a
reply, which tokens decide and how. `AnotherCallBias` multiplies the odds of going on by exp(bias), and leaves the
mass of both sides together, and of all tokens that decide nothing yet, as it was:

    p'(goes on) / p'(ends) = exp(bias) p(goes on) / p(ends)

A small model that was trained on few ways of asking for several things ends too early on others: on requests as
people write them it left out a call in 35 of 64 replies and wrote one too many in none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.sampling import LegalTokens
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import CALL_PREFIX
from modelstack.toolcalls.reply_place import CLOSING, FollowedReply, Place, behind

_NEXT = "," + CALL_PREFIX
MOST_PLACES = 512
"""Kept of a vocabulary's tables; how deep values nest is the model's to say."""


@dataclass(frozen=True, slots=True)
class Sides:
    """The tokens that decide at a place, by ascending id."""

    goes_on: NDArray[np.intp]
    ends: NDArray[np.intp]


class Endings:
    """Which tokens of a vocabulary decide, by place."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Pick the tokens that can."""
        self.table = vocabulary.token_bytes
        self._encode = vocabulary.encode
        self._deciding = [i for i, data in enumerate(self.table) if b"," in data or b"]" in data]
        self._known: dict[Place, Sides | None] = {}

    def sides(self, place: Place) -> Sides | None:
        """Return the tokens that decide at a place, None where none does both ways."""
        if not place.is_calls or not place.opened or place.escaped:
            return None
        if place not in self._known:
            if len(self._known) == MOST_PLACES:
                self._known.clear()
            self._known[place] = self._found(place)
        return self._known[place]

    def _found(self, place: Place) -> Sides | None:
        verdicts = [(token, behind(place, self.table[token])[1]) for token in self._deciding]
        goes_on = np.array([token for token, verdict in verdicts if verdict], dtype=np.intp)
        ends = np.array([token for token, verdict in verdicts if verdict is False], dtype=np.intp)
        on, end = self._first_of_both(place)
        if on != end:  # else they part later
            goes_on, ends = np.union1d(goes_on, [on]), np.union1d(ends, [end])
        return Sides(goes_on.astype(np.intp), ends.astype(np.intp)) if goes_on.size and ends.size else None

    def _first_of_both(self, place: Place) -> tuple[int, int]:
        """Return with which token the call's end is written where another follows, and where none does."""
        inside = bytes(place.opened[:0:-1]).translate(CLOSING).decode()
        rest = ('"' if place.in_string else "") + inside
        return self._encode(rest + _NEXT)[0], self._encode(rest + "]")[0]


@dataclass(frozen=True, slots=True)
class Decision:
    """The legal tokens of both sides, with how much more probable one side is."""

    goes_on: NDArray[np.intp]
    ends: NDArray[np.intp]
    log_mass: float
    """Logarithm of the summed exponentials of both sides' logits."""
    log_odds: float
    """Of going on."""


class AnotherCallBias:
    """Fulfils `modelstack.inference.engine.LogitBias` for one request."""

    def __init__(self, bias: float, endings: Endings) -> None:
        """Take what is added to the log-odds of going on."""
        self._bias = bias
        self._endings = endings
        self._reply = FollowedReply(endings.table)

    def __call__(
        self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]
    ) -> NDArray[np.float32] | None:
        """Return the logits with both sides moved where a decision falls, None elsewhere."""
        found = self.decision(written, legal, logits_V)
        if found is None or self._bias == 0:
            return None
        # What both sides have together stays: the rest is not to gain or lose by it.
        kept = -np.logaddexp(0.0, found.log_odds + self._bias) + np.logaddexp(0.0, found.log_odds)
        moved = logits_V.copy()
        moved[found.goes_on] += np.float32(self._bias + kept)
        moved[found.ends] += np.float32(kept)
        return moved

    def decision(
        self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]
    ) -> Decision | None:
        """Return how the model decides behind `written`, None where both ways are not open."""
        self._reply.follow(written)
        sides = self._endings.sides(self._reply.place)
        if sides is None:
            return None
        goes_on, ends = legal.among(sides.goes_on), legal.among(sides.ends)
        if not goes_on.size or not ends.size:
            return None
        log_on, log_end = _log_sum_exp(logits_V[goes_on]), _log_sum_exp(logits_V[ends])
        return Decision(goes_on, ends, float(np.logaddexp(log_on, log_end)), log_on - log_end)


def _log_sum_exp(values: NDArray[np.float32]) -> float:
    return float(np.logaddexp.reduce(values.astype(np.float64)))
