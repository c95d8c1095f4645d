"""BM25F over the words of tools: name, source, description, parameters (Robertson and Zaragoza 2009).

A word counts once in each field. A synonym of a word of the request counts a quarter of the word.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from agentkit.tools.tool_search.searched_text import SearchedText
from agentkit.tools.tool_search.synonyms import synonyms

NAME, SOURCE, DESCRIPTION, PARAMETERS, PARAMETER_DESCRIPTIONS = 3.0, 2.0, 1.0, 0.6, 0.3
"""Weights of a word by its field; half or double of each changes recall at 5 by at most 0.02 (tuning requests)."""
SATURATION, LENGTH = 1.2, 0.5
"""k1 and b of BM25."""
SYNONYM = 0.25
"""Weight of a synonym; 0.2 and 0.35 perform about as well."""


class LexicalIndex:
    """Words of tools with their weights."""

    def __init__(self, texts: Sequence[SearchedText]) -> None:
        """Index the tools, in the order given."""
        weights = [_weights(text) for text in texts]
        lengths = [sum(each.values()) for each in weights]
        mean = sum(lengths) / len(lengths) if lengths else 1.0
        n_with = Counter(word for each in weights for word in each)
        self._n_tools = len(texts)
        self._scores: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for index, (each, length) in enumerate(zip(weights, lengths, strict=True)):
            norm = SATURATION * (1 - LENGTH + LENGTH * length / mean)
            for word, weight in each.items():
                rarity = math.log(1 + (len(texts) - n_with[word] + 0.5) / (n_with[word] + 0.5))
                self._scores[word].append((index, rarity * weight * (SATURATION + 1) / (weight + norm)))

    def scores(self, request: str) -> list[float]:
        """Return the score of each tool for a request, 0 for a tool without a word of it."""
        from modelstack.toolcalls.prior.lexical import words

        asked = words(request)
        weights = dict.fromkeys(asked, 1.0)
        for word in sorted(asked):
            for other in synonyms().get(word, ()):
                weights.setdefault(other, SYNONYM)
        found = [0.0] * self._n_tools
        for word in sorted(weights):  # sorted, so that rounding does not depend on the hash order of a set
            for index, score in self._scores.get(word, ()):
                found[index] += weights[word] * score
        return found


def _weights(text: SearchedText) -> dict[str, float]:
    from modelstack.toolcalls.prior.lexical import words

    found: dict[str, float] = defaultdict(float)
    fields = (
        (text.name, NAME),
        (text.source, SOURCE),
        (text.description, DESCRIPTION),
        (text.parameters, PARAMETERS),
        (text.parameter_descriptions, PARAMETER_DESCRIPTIONS),
    )
    for content, weight in fields:
        for word in words(content):
            found[word] += weight
    return found
