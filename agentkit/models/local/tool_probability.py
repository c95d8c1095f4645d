"""Probability of a remote model's tool call, from the log-probabilities of a chat completion.

vLLM and llama.cpp list every token that was written, the call's markers included, so the first call's decision
(to call, and which tool) is the product of the probabilities from the first token to the end of the name. OpenAI
lists none for calls. The figure is given only if its meaning is certain: the list is complete by the
server's own token count, the call opens the reply, and the name is spelled in it. It is a lower bound on the
probability among legal choices, since nothing masked the illegal ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, cast

MAX_OPENING_CHARS = 64
"""Characters before a call's name. Its markers are shorter; anything longer contains reasoning or text."""

TokenLogprob = tuple[str, float]


def read_logprobs(choice: dict[str, Any]) -> list[TokenLogprob]:
    """Return the tokens of a choice with their log-probabilities; unreadable ones are left out."""
    logprobs = choice.get("logprobs")
    entries: Any = cast("dict[str, Any]", logprobs).get("content") if isinstance(logprobs, dict) else None
    if not isinstance(entries, list):
        return []
    found: list[TokenLogprob] = []
    for entry in cast("list[Any]", entries):
        fields = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        token, logprob = fields.get("token"), fields.get("logprob")
        if isinstance(token, str) and isinstance(logprob, int | float):
            found.append((token, float(logprob)))
    return found


def opening_call_probability(tokens: Sequence[TokenLogprob], tool_name: str, n_output_tokens: int) -> float | None:
    """Return the probability that a reply opens with a call of `tool_name`; None if it cannot be known.

    `tokens` are all tokens of the reply, `n_output_tokens` the server's count of them; the end token may or may
    not be listed.
    """
    if not tool_name or not tokens or abs(n_output_tokens - len(tokens)) > 1:
        return None
    written = "".join(token for token, _ in tokens)
    name = re.search(rf"(?<![\w.-]){re.escape(tool_name)}(?![\w.-])", written)
    if name is None or name.start() > MAX_OPENING_CHARS:
        return None
    total, n_chars = 0.0, 0
    for token, logprob in tokens:
        total += logprob
        n_chars += len(token)
        if n_chars >= name.end():
            break
    probability = math.exp(min(total, 0.0))
    return probability if math.isfinite(probability) else None
