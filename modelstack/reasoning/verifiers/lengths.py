"""Rewards on how long a completion is and how often it repeats itself; both count tokens as they were sampled."""

from __future__ import annotations

import math
from typing import Any

from modelstack.errors import UserError
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, Verifier, unscorable

_NO_TOKENS = "the completion comes without token ids, by which length is counted"


class SoftOverlong:
    """0 up to a length, down to -1 at the limit and beyond (DAPO, Yu et al. 2025, arXiv 2503.14476, eq. 13)."""

    def __init__(self, *, max_tokens: int, cache_tokens: int) -> None:
        """Take the limit, and over how many tokens below it the penalty grows.

        Raises:
            UserError: Not 0 <= cache_tokens <= max_tokens, or max_tokens below 1.
        """
        if max_tokens < 1 or not 0 <= cache_tokens <= max_tokens:
            raise UserError(
                f"max_tokens={max_tokens}, cache_tokens={cache_tokens}: the limit is at least 1, and the tokens "
                "over which the penalty grows lie below it"
            )
        self._max, self._cache = max_tokens, cache_tokens

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        """Return a penalty from -1 to 0; None without token ids."""
        n_tokens = len(completion.token_ids)
        if completion.text and not n_tokens:
            return unscorable(_NO_TOKENS)
        return Reward(soft_overlong(n_tokens, self._max, self._cache), f"{n_tokens} tokens")


def soft_overlong(n_tokens: int, max_tokens: int, cache_tokens: int) -> float:
    """Return DAPO's penalty of a length: with 100 and 20, 80 tokens give 0, 90 give -0.5, 101 give -1."""
    free = max_tokens - cache_tokens
    if n_tokens <= free:
        return 0.0
    return (free - n_tokens) / cache_tokens if n_tokens <= max_tokens else -1.0


class CosineLength:
    """A correctness reward scaled by length: short and right is best, short and wrong is worst.

    Yeo et al. 2025, "Demystifying Long Chain-of-Thought Reasoning" (arXiv 2502.03373), section 4.2.
    """

    def __init__(
        self,
        correctness: Verifier[Any],
        *,
        max_tokens: int,
        right: tuple[float, float] = (1.0, 0.5),
        wrong: tuple[float, float] = (-1.0, -0.5),
    ) -> None:
        """Take what judges the answer and the ends of the scale.

        Args:
            correctness: Its reward counts as right at 1 and as wrong below.
            max_tokens: Length from which the second value holds.
            right: Reward of a right answer of no length, and of one of `max_tokens`.
            wrong: The same of a wrong one.

        Raises:
            UserError: `max_tokens` is below 1.
        """
        if max_tokens < 1:
            raise UserError(f"max_tokens={max_tokens}: it must be at least 1")
        self.correctness, self._max, self._right, self._wrong = correctness, max_tokens, right, wrong

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        """Return the scaled reward; None where correctness has none, or without token ids."""
        judged = self.correctness.score(item, completion)
        if judged.value is None:
            return judged
        if completion.text and not completion.token_ids:
            return unscorable(_NO_TOKENS)
        ends = self._right if judged.value >= 1.0 else self._wrong
        value = cosine_scaled(len(completion.token_ids), self._max, *ends)
        return Reward(value, judged.reason, judged.answer, {"correctness": judged.value})


def cosine_scaled(n_tokens: int, max_tokens: int, at_none: float, at_most: float) -> float:
    """Return the value between two ends that half a wave of the cosine has at a length."""
    progress = min(n_tokens / max_tokens, 1.0)  # beyond the limit the wave would come up again
    return at_most + 0.5 * (at_none - at_most) * (1.0 + math.cos(progress * math.pi))


class Repetition:
    """A penalty by the share of n-grams of tokens that come again (arXiv 2502.03373, appendix C.2)."""

    def __init__(self, *, n: int = 3, largest: float = -1.0) -> None:
        """Take the size of an n-gram, and the penalty where all repeat.

        Raises:
            UserError: `n` is below 1 or the penalty above 0.
        """
        if n < 1 or largest > 0:
            raise UserError(
                f"n={n}, largest={largest}: an n-gram has a token at least, and a penalty is not positive"
            )
        self._n, self._largest = n, largest

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        """Return the penalty; None without token ids."""
        if completion.text and not completion.token_ids:
            return unscorable(_NO_TOKENS)
        share = repeated_share(completion.token_ids, self._n)
        return Reward(share * self._largest if share else 0.0, f"{share:.0%} of {self._n}-grams come again")


def repeated_share(tokens: tuple[int, ...], n: int) -> float:
    """Return the share of n-grams that were there before; 0 where there is none."""
    n_grams = len(tokens) - n + 1
    if n_grams < 1:
        return 0.0
    return 1 - len({tokens[i : i + n] for i in range(n_grams)}) / n_grams
