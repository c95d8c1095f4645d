"""Whether another call follows the one just written: where a reply decides it, and what is known beforehand.

A reply is a list of calls. Behind one of them either a comma leads to another or a bracket ends the list; tokens
like `},` and `}]` close the call and decide in one. Others decide by how text is cut into tokens: behind a number
SmolLM2 writes `}}` `]` and `}` `},`, so that its first brace tells already. `Endings` finds, for any place of a
reply, which tokens decide and how. `AnotherCallBias` multiplies the odds of going on by exp(bias):

    p'(goes on) / p'(ends) = exp(bias) p(goes on) / p(ends)

A small model that was trained on few ways of asking for several things ends too early on others: on requests as
people write them it left out a call in 35 of 64 replies and wrote one too many in none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.sampling import LegalTokens
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import CALL_PREFIX
from modelstack.toolcalls.reply_place import CLOSING, FollowedReply, Place, behind
from modelstack.toolcalls.two_sides import Decision, Sides

_NEXT = "," + CALL_PREFIX
MOST_PLACES = 512
"""Kept of a vocabulary's tables; how deep values nest is the model's to say."""


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
        goes_on = {token for token, verdict in verdicts if verdict}
        ends = {token for token, verdict in verdicts if verdict is False}
        on, end = self._first_of_both(place)  # if equal, they part later
        return Sides.of(goes_on | {on}, ends | {end})

    def _first_of_both(self, place: Place) -> tuple[int, int]:
        """Return with which token the call's end is written where another follows, and where none does."""
        inside = bytes(place.opened[:0:-1]).translate(CLOSING).decode()
        rest = ('"' if place.in_string else "") + inside
        return self._encode(rest + _NEXT)[0], self._encode(rest + "]")[0]


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
        return None if found is None or self._bias == 0 else found.moved(logits_V, self._bias)

    def decision(
        self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]
    ) -> Decision | None:
        """Return how the model decides behind `written`, None where both ways are not open."""
        self._reply.follow(written)
        return Decision.of(self._endings.sides(self._reply.place), legal, logits_V)
