"""Rewards for length and repetition, both counted in sampled tokens."""

from __future__ import annotations

import math
from typing import Any

from modelstack.errors import UserError
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, Verifier, unscorable

_NO_TOKENS = "the completion has no token ids, so its length is unknown"


class SoftOverlong:
    """Penalty from 0 to -1 near the token limit, -1 beyond it (DAPO, arXiv 2503.14476, eq. 13)."""

    def __init__(self, *, max_tokens: int, cache_tokens: int) -> None:
        """Store the limit, and the number of tokens before it over which the penalty grows.

        Raises:
            UserError: `max_tokens` is below 1, or `cache_tokens` is outside 0 to `max_tokens`.
        """
        if max_tokens < 1 or not 0 <= cache_tokens <= max_tokens:
            raise UserError(
                f"max_tokens={max_tokens}, cache_tokens={cache_tokens}: max_tokens must be at least 1, and "
                "cache_tokens from 0 to max_tokens"
            )
        self._max, self._cache = max_tokens, cache_tokens

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        """Return a penalty from -1 to 0; None without token ids."""
        n_tokens = len(completion.token_ids)
        if completion.text and not n_tokens:
            return unscorable(_NO_TOKENS)
        return Reward(soft_overlong(n_tokens, self._max, self._cache), f"{n_tokens} tokens")


def soft_overlong(n_tokens: int, max_tokens: int, cache_tokens: int) -> float:
    """Return DAPO's penalty for a length: with limits 100 and 20, 80 tokens give 0, 90 give -0.5, 101 give -1."""
    free = max_tokens - cache_tokens
    if n_tokens <= free:
        return 0.0
    return (free - n_tokens) / cache_tokens if n_tokens <= max_tokens else -1.0


class CosineLength:
    """Verifier that scales correctness by length: short and correct is best, short and wrong is worst.

    Source: Yeo et al. 2025, "Demystifying Long Chain-of-Thought Reasoning" (arXiv 2502.03373), section 4.2.
    """

    def __init__(
        self,
        correctness: Verifier[Any],
        *,
        max_tokens: int,
        right: tuple[float, float] = (1.0, 0.5),
        wrong: tuple[float, float] = (-1.0, -0.5),
    ) -> None:
        """Store the verifier of the answer and the ends of the scale.

        Args:
            correctness: Verifier of the answer; reward 1 counts as correct, anything below as wrong.
            max_tokens: Length from which the second value of each pair applies.
            right: Rewards of a correct answer with 0 tokens and with `max_tokens`.
            wrong: Rewards of a wrong answer with 0 tokens and with `max_tokens`.

        Raises:
            UserError: `max_tokens` is below 1.
        """
        if max_tokens < 1:
            raise UserError(f"max_tokens={max_tokens}: it must be at least 1")
        self.correctness, self._max, self._right, self._wrong = correctness, max_tokens, right, wrong

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        """Return the scaled reward; None if correctness returns None or without token ids."""
        judged = self.correctness.score(item, completion)
        if judged.value is None:
            return judged
        if completion.text and not completion.token_ids:
            return unscorable(_NO_TOKENS)
        ends = self._right if judged.value >= 1.0 else self._wrong
        value = cosine_scaled(len(completion.token_ids), self._max, *ends)
        return Reward(value, judged.reason, judged.answer, {"correctness": judged.value})


def cosine_scaled(n_tokens: int, max_tokens: int, at_none: float, at_most: float) -> float:
    """Return the value at a length on half a cosine wave from `at_none` to `at_most`."""
    progress = min(n_tokens / max_tokens, 1.0)  # beyond the limit the wave would rise again
    return at_most + 0.5 * (at_none - at_most) * (1.0 + math.cos(progress * math.pi))


class Repetition:
    """Penalty for the share of repeated token n-grams (arXiv 2502.03373, appendix C.2)."""

    def __init__(self, *, n: int = 3, largest: float = -1.0) -> None:
        """Store the size of an n-gram, and the penalty if all are repeated.

        Raises:
            UserError: `n` is below 1 or the penalty is above 0.
        """
        if n < 1 or largest > 0:
            raise UserError(f"n={n}, largest={largest}: n must be at least 1, and largest at most 0")
        self._n, self._largest = n, largest

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        """Return the penalty; None without token ids."""
        if completion.text and not completion.token_ids:
            return unscorable(_NO_TOKENS)
        share = repeated_share(completion.token_ids, self._n)
        return Reward(share * self._largest if share else 0.0, f"{share:.0%} of {self._n}-grams are repeated")


def repeated_share(tokens: tuple[int, ...], n: int) -> float:
    """Return the share of n-grams that occurred before; 0 if there are none."""
    n_grams = len(tokens) - n + 1
    if n_grams < 1:
        return 0.0
    return 1 - len({tokens[i : i + n] for i in range(n_grams)}) / n_grams
