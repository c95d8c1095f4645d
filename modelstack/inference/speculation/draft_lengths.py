"""Number of tokens to draft: the one with the highest expected speed, from measured costs and acceptance rates.

A step that evaluates N tokens takes cost(N) seconds. It yields one token for each reply, and one more for each
draft token that is accepted. A draft token is accepted only if all before it in its reply are, so its probability
is the product of theirs. Draft tokens are taken in the order of this probability, as many as maximise

    (replies + sum of the probabilities) / cost(replies + draft tokens),

which may be none. Costs are measured by the steps themselves: they depend on the machine, the model, its number
type, and on what else the machine does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_DRAFT = 31
"""Maximum number of draft tokens of a reply in a step."""
MAX_STEP = 64
"""Number of tokens up to which steps are measured. Longer ones read prompts."""
FIRST_SLOPE = 0.1
"""Cost of one more token relative to the smallest step, beyond the largest step that was measured."""
COST_MEMORY = 32
"""Number of steps over which a cost is averaged."""
COST_LIFE = 2048
"""Number of steps after which a cost that was not measured again is forgotten: it may have been an accident."""
LEAST_GAIN = 1.05
"""Expected gain below which nothing is drafted, as costs are not known more exactly."""
RATE_MEMORY = 64
"""Number of draft tokens over which an acceptance rate is averaged."""


@dataclass(slots=True)
class _Cost:
    n_tokens: float
    seconds: float
    n_steps: int
    last_step: int


class StepCosts:
    """Seconds of a step by its number of tokens, averaged over the latest steps of about that size."""

    def __init__(self) -> None:
        """Start without measurements."""
        self._by_size: dict[int, _Cost] = {}
        """By the power of two that is not below the number of tokens."""
        self._n_steps = 0
        self._known: set[int] = set()
        """Numbers of tokens of the steps so far."""

    def add(self, n_tokens: int, seconds: float) -> None:
        """Add a step; ignored are those of more than `MAX_STEP` tokens, and the first of each number of tokens.

        Libraries prepare their kernels in the first step of a size, which then takes several times as long.
        """
        if not 1 <= n_tokens <= MAX_STEP:
            return
        if n_tokens not in self._known:
            self._known.add(n_tokens)
            return
        self._n_steps += 1
        size = (n_tokens - 1).bit_length()
        cost = self._by_size.get(size)
        if cost is None or self._is_old(cost):
            self._by_size[size] = _Cost(n_tokens, seconds, 1, self._n_steps)
            return
        cost.n_steps = min(cost.n_steps + 1, COST_MEMORY)
        cost.n_tokens += (n_tokens - cost.n_tokens) / cost.n_steps
        cost.seconds += (seconds - cost.seconds) / cost.n_steps
        cost.last_step = self._n_steps

    def seconds(self, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the expected seconds of steps of some numbers of tokens; without measurements in any unit."""
        known = [cost for _, cost in sorted(self._by_size.items()) if not self._is_old(cost)]
        n_tokens = np.array([cost.n_tokens for cost in known] or [1.0])
        costs = np.maximum.accumulate([cost.seconds for cost in known] or [1.0])
        beyond = FIRST_SLOPE * costs[0] * np.maximum(sizes - n_tokens[-1], 0)
        return (np.interp(sizes, n_tokens, costs) + beyond).astype(np.float64)

    def _is_old(self, cost: _Cost) -> bool:
        return self._n_steps - cost.last_step > COST_LIFE


class AcceptanceRates:
    """Acceptance rates of draft tokens by the length of the match before them, which accepted tokens lengthen."""

    def __init__(self, accepted: NDArray[np.float64], tried: NDArray[np.float64]) -> None:
        """Start with numbers of accepted and of tried tokens, by length; longer matches count as the longest."""
        self._accepted, self._tried = accepted.copy(), tried.copy()

    def probabilities(self, n_matched: int, n_tokens: int) -> NDArray[np.float64]:
        """Return the probability of each draft token to be accepted with all before it."""
        lengths = np.minimum(np.arange(n_matched, n_matched + n_tokens), len(self._tried) - 1)
        return np.cumprod(self._accepted[lengths] / self._tried[lengths], dtype=np.float64)

    def add(self, n_matched: int, n_accepted: int, n_tried: int) -> None:
        """Add a draft: of `n_tried` tokens the first `n_accepted` were right, and the next, if any, was wrong."""
        for place in range(min(n_accepted + 1, n_tried)):
            length = min(n_matched + place, len(self._tried) - 1)
            keep = 1 - 1 / RATE_MEMORY
            self._accepted[length] = keep * self._accepted[length] + (place < n_accepted)
            self._tried[length] = keep * self._tried[length] + 1


def draft_lengths(
    probabilities: Sequence[NDArray[np.float64]], costs: StepCosts, max_tokens: int, drafting_s: float = 0.0
) -> list[int]:
    """Return the number of tokens to draft for each reply.

    Args:
        probabilities: For each reply of the step, the probability of each draft token to be accepted with all
            before it; empty if there is no draft.
        costs: Measured costs.
        max_tokens: Maximum number of draft tokens of all replies together.
        drafting_s: Seconds that drafts cost besides the step.
    """
    n_replies = len(probabilities)
    reply_of = np.repeat(np.arange(n_replies), [len(each) for each in probabilities])
    every = np.concatenate(probabilities)
    likeliest = np.argsort(-every, kind="stable")[: max(0, max_tokens)]
    yields = n_replies + np.concatenate([[0.0], np.cumsum(every[likeliest])])
    seconds = costs.seconds(np.arange(n_replies, n_replies + len(yields)))
    seconds[1:] += drafting_s
    speeds = yields / seconds
    n_best = int(speeds.argmax())
    if speeds[n_best] < LEAST_GAIN * speeds[0]:
        return [0] * n_replies
    return np.bincount(reply_of[likeliest[:n_best]], minlength=n_replies).tolist()
