"""The decision between another call and the end of a reply, and a prior for it.

A reply is a list of calls. After a call either a comma leads to another call or a bracket ends the list; tokens
like `},` and `}]` close the call and decide at the same time. Other tokens decide by the way text is tokenised:
after a number SmolLM2 writes `}}` `]` or `}` `},`, so its first brace decides already. `Endings` finds the
deciding tokens for any position of a reply. With x the evidence of the request for more calls,

    log-odds'(another call) = log-odds(another call) + constant + weights . x

The evidence x consists of:
- the best lexical score (`lexical`) among the tools that are not called yet;
- 1 if a number of the request is in no call yet, else 0;
- the share of the request's words that occur neither in the calls nor in their tools.

A small model ends too early: on natural requests it left out a call in 35 of 64 replies and wrote an extra call in
none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.legal_tokens import LegalTokens
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import CALL_PREFIX, ToolSpec
from modelstack.toolcalls.prior.copying import numbers_of
from modelstack.toolcalls.prior.lexical import EvidenceWeights, lexical_scores, words
from modelstack.toolcalls.prior.reply_place import CLOSING, FollowedReply, Place, behind
from modelstack.toolcalls.prior.two_sides import Decision, EvidenceBias, Evidenced, Sides

_NEXT = "," + CALL_PREFIX
MOST_PLACES = 512
"""Number of positions kept for a vocabulary; the model decides how deep values nest."""


class Endings:
    """The tokens of a vocabulary that decide between another call and the end, by position."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Select the tokens that can decide."""
        self.table = vocabulary.token_bytes
        self._encode = vocabulary.encode
        self._deciding = [i for i, data in enumerate(self.table) if b"," in data or b"]" in data]
        self._known: dict[Place, Sides | None] = {}

    def sides(self, place: Place) -> Sides | None:
        """Return the deciding tokens at a position; None unless there are some for both sides."""
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
        on, end = self._first_of_both(place)  # if they are equal, the texts differ in a later token
        return Sides.of(goes_on | {on}, ends | {end})

    def _first_of_both(self, place: Place) -> tuple[int, int]:
        """Return the first token of a call's end before another call, and before the end of the list."""
        inside = bytes(place.opened[:0:-1]).translate(CLOSING).decode()
        rest = ('"' if place.in_string else "") + inside
        return self._encode(rest + _NEXT)[0], self._encode(rest + "]")[0]


class AnotherCallBias(EvidenceBias):
    """Moves the decisions about another call in one request."""

    def __init__(
        self, weights: EvidenceWeights | None, request: str, tools: Sequence[ToolSpec], endings: Endings
    ) -> None:
        """Read the request and the tools; without weights nothing is moved."""
        super().__init__(weights)
        self._asked = words(request)
        self._numbers = numbers_of(request)
        self._scores = lexical_scores(request, tools)
        self._words = {tool.name: _words_of(tool) for tool in tools}
        self._endings = endings
        self._reply = FollowedReply(endings.table)

    def decision(
        self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]
    ) -> Evidenced | None:
        """Return the model's decision after `written`; None unless both sides are legal."""
        self._reply.follow(written)
        decision = Decision.of(self._endings.sides(self._reply.place), legal, logits_V)
        calls = [] if decision is None else self._reply.calls()
        if decision is None or not calls:
            return None
        text = json.dumps([call.get("arguments", {}) for call in calls], ensure_ascii=False)
        called = {call["name"] for call in calls}
        said = words(text).union(*(self._words.get(name, frozenset()) for name in called))
        tool = max((score for name, score in self._scores.items() if name not in called), default=0.0)
        number = float(bool(self._numbers - numbers_of(text)))
        return Evidenced(decision, (tool, number, len(self._asked - said) / max(1, len(self._asked))))


def _words_of(tool: ToolSpec) -> frozenset[str]:
    properties = tool.parameters.get("properties")
    names = " ".join(map(str, properties)) if isinstance(properties, Mapping) else ""
    return words(f"{tool.name} {tool.description} {names}")
