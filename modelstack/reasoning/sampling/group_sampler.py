"""Samples several replies to each prompt from a policy; a prompt is evaluated only once.

Tokens are drawn from the full distribution at a temperature, without top-k or top-p, since the policy gradient
assumes the distribution that was sampled from. The log-probability of each token is returned, so that a trainer
can measure how far its own values are from the sampler's. Each reply has its own random numbers, so the other
replies of a batch change it only by rounding.

Letters: G replies to a prompt, R rows: replies being written, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from modelstack.errors import UserError
from modelstack.inference.row_sampling import draw_rows
from modelstack.reasoning.sampling.continuing import RowPolicy
from modelstack.reasoning.sampling.sampled import Asked, Sampled, parts, row_seed


@dataclass(frozen=True, slots=True)
class GroupSampler:
    """Sampler of replies without a grammar."""

    policy: RowPolicy
    end_ids: frozenset[int]
    max_tokens: int
    temperature: float = 1.0
    one_by_one: bool = False
    """Whether each prompt has a batch of its own: then its replies are the same to the last bit whatever else is
    asked, as a pool promises. Otherwise all prompts share batches, which is up to twice as fast."""

    def sample(self, asked: Sequence[Asked], n_replies: int) -> list[list[Sampled]]:
        """Return the replies to each prompt; see `sample_groups`."""
        replies = []
        for part in parts(asked, one_by_one=self.one_by_one):
            replies += sample_groups(
                self.policy,
                [each.prompt_ids for each in part],
                n_replies,
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                end_ids=self.end_ids,
                seeds=[each.seed for each in part],
            )
        return replies


def sample_groups(
    policy: RowPolicy,
    prompts: Sequence[Sequence[int]],
    n_replies: int,
    *,
    max_tokens: int,
    temperature: float = 1.0,
    end_ids: frozenset[int],
    seeds: Sequence[int],
) -> list[list[Sampled]]:
    """Return G replies to each prompt.

    Args:
        policy: Evaluates the replies.
        prompts: Token ids of the prompts, at least one each.
        n_replies: Number of replies G.
        max_tokens: Maximum number of tokens in a reply.
        temperature: Divisor of the logits; 0 selects greedy decoding, which makes all replies equal.
        end_ids: Tokens that end a reply.
        seeds: Random seed of each prompt; the same weights, prompt and seed give the same replies.

    Raises:
        UserError: The temperature is negative, or prompt and reply exceed the model's context length.
        EngineError: The evaluation failed.
    """
    if temperature < 0:
        raise UserError(f"temperature is {temperature}; it must be 0 (greedy) or above")
    rows = [_Row(np.random.default_rng(row_seed(seed, g))) for seed in seeds for g in range(n_replies)]

    def choose(numbers: Sequence[int], logits_RV: NDArray[np.float32]) -> list[Sequence[int]]:
        several = [rows[number] for number in numbers]
        uniforms_R = np.array([row.rng.random() for row in several])
        tokens_R, log_probs_R = draw_rows(logits_RV, temperature, uniforms_R)
        drawn = zip(several, tokens_R.tolist(), log_probs_R.tolist(), strict=True)
        return [row.taken(token, log_prob, end_ids, max_tokens) for row, token, log_prob in drawn]

    policy.continue_rows(prompts, [n_replies] * len(prompts), choose, max_tokens)
    replies = [Sampled(tuple(row.ids), tuple(row.log_probs), not row.is_ended) for row in rows]
    return [replies[start : start + n_replies] for start in range(0, len(replies), n_replies)]


@dataclass(slots=True)
class _Row:
    rng: np.random.Generator
    ids: list[int] = field(default_factory=list[int])
    log_probs: list[float] = field(default_factory=list[float])
    is_ended: bool = False

    def taken(self, token: int, log_prob: float, end_ids: frozenset[int], max_tokens: int) -> Sequence[int]:
        """Append a token; return what is read next."""
        self.ids.append(token)
        self.log_probs.append(log_prob)
        self.is_ended = token in end_ids
        return () if self.is_ended or len(self.ids) == max_tokens else (token,)
