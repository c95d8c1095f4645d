"""Comparison of a quantised model with the original on held-out text.

KL is the Kullback-Leibler divergence of the next-token distributions, from the original to the quantised model:
sum p (log p - log q), the mean over tokens in nats. Intervals are Student's over rows, which are of equal length.

Letters: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.student import half_width_95

TOKENS_AT_ONCE = 256
"""Tokens whose logits are held at once: 50 MB at a vocabulary of 49,152, twice in fp32."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Result of a comparison."""

    n_tokens: int
    kl: float
    """Mean KL per token, in nats."""
    kl_half_width: float
    """Half the width of its 95 % interval."""
    same_choice: float
    """Share of tokens at which both models find the same token most probable."""
    perplexity_before: float
    perplexity_after: float


@torch.no_grad()
def compare(
    original: CausalLM,
    quantised: CausalLM,
    batches: Sequence[Tensor],
    *,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Compare two models on rows of tokens; at least two rows.

    Args:
        original: The original model.
        quantised: The other model, with the same vocabulary.
        batches: Token ids [B, T].
        on_batch: Called with the number of finished batches and of all.
    """
    kl_of_rows: list[float] = []
    losses = torch.zeros(2, dtype=torch.float64)
    n_same = n_tokens = 0
    for number, ids in enumerate(batches):
        hidden = [model(ids, with_logits=False).hidden_BTD[:, :-1] for model in (original, quantised)]
        targets = ids[:, 1:]
        kl = torch.empty(targets.shape)
        for row in range(len(ids)):
            for start in range(0, targets.shape[1], TOKENS_AT_ONCE):
                part = slice(start, start + TOKENS_AT_ONCE)
                log_p, log_q = (
                    model.logits(states[row, part].unsqueeze(0))[0].float().log_softmax(-1)
                    for model, states in zip((original, quantised), hidden, strict=True)
                )
                kl[row, part] = (log_p.exp() * (log_p - log_q)).sum(-1)
                n_same += int((log_p.argmax(-1) == log_q.argmax(-1)).sum())
                labels = targets[row, part, None]
                losses -= torch.stack([each.gather(-1, labels).sum() for each in (log_p, log_q)]).double()
        kl_of_rows += kl.mean(1).tolist()
        n_tokens += targets.numel()
        on_batch(number + 1, len(batches))
    before, after = (losses / n_tokens).tolist()
    return Comparison(
        n_tokens,
        sum(kl_of_rows) / len(kl_of_rows),
        half_width_95(kl_of_rows),
        n_same / n_tokens,
        math.exp(before),
        math.exp(after),
    )
