"""Measures a policy with the planted judge, and its distance from the base.

A policy is measured on its own samples. Each reply is compared with the base's replies to the same prompt: a win
counts 1, a draw a half. The distance is KL(policy || base), estimated without bias as the mean of log p - log
p_base over the policy's own replies. Over-optimisation is usually plotted against this quantity (Gao et al.,
2210.10760).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evals.post_training.planted.judge import judge
from evals.post_training.planted.language import Prompt, Split, prompts
from evals.post_training.planted.sampling import Reply, loaded, log_probs, replies
from modelstack.posttrain.base import Base
from modelstack.posttrain.stages.stage import Stage
from modelstack.preferences.reward.loader import scored_rows
from modelstack.preferences.reward.passes import rewards_of
from modelstack.preferences.reward.value_model import load_value_model

N_REPLIES, N_OPPONENTS = 2, 8
"""Replies per prompt of each policy, and of the base; each policy reply is compared with all of the base's."""
SEED_OF_BASE, SEED_OF_POLICY = 10_001, 10_002
"""Sampling seeds, different from those of training and pairs."""
ROWS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurements of one policy on one split; lists have one entry per prompt, averaged over its replies."""

    method: str
    seed: int
    split: Split
    wins: list[float]
    """Share of the base's replies with a lower score; a draw counts a half."""
    scores: list[float]
    n_tokens: list[float]
    kl_nats: list[float]
    """KL from the base in nats per reply."""
    truncated: float
    reward: float
    """Mean score of the reward model."""
    parts: dict[str, float]
    """Means of the judge's components."""
    sample: str

    def plain(self) -> dict[str, Any]:
        """Return the measurements as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The reference for all policies of a seed: the base and its replies."""

    base: Base
    reward: Path
    split: Split
    seed: int
    asked: list[Prompt]
    scores: list[list[float]]
    """Scores of the base's replies, by prompt."""


def yardstick(base: Stage, reward: Stage, split: Split, seed: int) -> Yardstick:
    """Return the base with its judged replies to a split."""
    asked, model = prompts(split), loaded(base)
    said = replies(model, asked, N_OPPONENTS, SEED_OF_BASE)
    scores = [[_judged(prompt, each) for each in group] for prompt, group in zip(asked, said, strict=True)]
    return Yardstick(model, reward.weights, split, seed, asked, scores)


def measure(method: str, policy: Stage, against: Yardstick) -> Measured:
    """Measure a policy on its own replies."""
    model = loaded(policy)
    groups = replies(model, against.asked, N_REPLIES, SEED_OF_POLICY)
    flat = [each for group in groups for each in group]
    own, of_base = log_probs(model, flat), log_probs(against.base, flat)
    kl = by_prompt([p - q for p, q in zip(own, of_base, strict=True)])
    verdicts = [
        judge(prompt, each.text, is_truncated=each.is_truncated)
        for prompt, group in zip(against.asked, groups, strict=True)
        for each in group
    ]
    scores = [verdict.score for verdict in verdicts]
    opponents = [group for group in against.scores for _ in range(N_REPLIES)]
    parts = {
        "topics": statistics.fmean(verdict.n_topics for verdict in verdicts),
        "repetitions": statistics.fmean(verdict.n_repetitions for verdict in verdicts),
        "nonsense": statistics.fmean(verdict.n_nonsense for verdict in verdicts),
        "words": statistics.fmean(verdict.n_words for verdict in verdicts),
        "has the name": statistics.fmean(verdict.has_name for verdict in verdicts),
    }
    return Measured(
        method=method,
        seed=against.seed,
        split=against.split,
        wins=by_prompt(wins(scores, opponents)),
        scores=by_prompt(scores),
        n_tokens=by_prompt([float(len(each.sampled.ids)) for each in flat]),
        kl_nats=kl,
        truncated=statistics.fmean(each.is_truncated for each in flat),
        reward=statistics.fmean(_rewards(against.reward, flat)),
        parts=parts,
        sample=f"{against.asked[0].text} -> {flat[0].text}",
    )


def wins(scores: Sequence[float], opponents: Sequence[Sequence[float]]) -> list[float]:
    """Return, for each reply, the mean over its opponents of 1 for a win, a half for a draw, 0 for a loss."""
    return [
        statistics.fmean((own > other) + 0.5 * (own == other) for other in others)
        for own, others in zip(scores, opponents, strict=True)
    ]


def by_prompt(values: Sequence[float]) -> list[float]:
    """Return means over the replies of each prompt, because only prompts are independent samples."""
    return [statistics.fmean(values[n : n + N_REPLIES]) for n in range(0, len(values), N_REPLIES)]


def measured_from(content: Mapping[str, Any]) -> Measured:
    """Restore measurements from `Measured.plain`."""
    return Measured(**content)


def _judged(prompt: Prompt, said: Reply) -> float:
    return judge(prompt, said.text, is_truncated=said.is_truncated).score


def _rewards(folder: Path, several: Sequence[Reply]) -> list[float]:
    import torch

    model = load_value_model(folder).eval()
    found: list[float] = []
    with torch.no_grad():
        for start in range(0, len(several), ROWS_AT_ONCE):
            rows = [(*each.prompt_ids, *each.sampled.ids) for each in several[start : start + ROWS_AT_ONCE]]
            found += rewards_of(model, scored_rows(rows)).tolist()
    return found
