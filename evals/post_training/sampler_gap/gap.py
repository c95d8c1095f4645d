"""Difference between llama.cpp's and the model's own probabilities of sampled tokens, at the same weights.

Let mu be llama.cpp's and o the model's own log-probability of a token that llama.cpp sampled. Reported are:

- the mean of |o - mu|;
- the KL divergence of the sampler from the model, estimated by e^(o - mu) - 1 - (o - mu);
- the effective sample size of weights e^(o - mu), (sum w)^2 / (n sum w^2), of tokens and of whole replies; 1 if
  both models agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel

from modelstack.posttrain.base import Base
from modelstack.reasoning.sampling.group_sampler import GroupSampler
from modelstack.reasoning.sampling.llama.policy import LlamaPolicy
from modelstack.reasoning.sampling.llama.served_policy import LlamaSampling
from modelstack.reasoning.sampling.sampled import Asked


class Gap(BaseModel, frozen=True):
    """Gap statistics over sampled tokens."""

    n_tokens: int
    n_replies: int
    mean: float
    largest: float
    kl: float
    """KL divergence in nats per token."""
    token_sample_size: float
    """Effective sample size of tokens, as a share of their number."""
    reply_sample_size: float


def measured_gap(base: Base, asked: Sequence[Asked], type_name: Any, n_replies: int, max_tokens: int) -> Gap:
    """Sample with llama.cpp and compare with the model's own probability of each token."""
    with LlamaPolicy(base, LlamaSampling(type_name=type_name, max_rows=64)) as quantised:
        sampler = GroupSampler(quantised, frozenset(base.encoder.end_ids), max_tokens)
        groups = sampler.sample(asked, n_replies)
    apart = [
        _own_log_probs(base, each.prompt_ids, reply.ids) - torch.tensor(reply.log_probs, dtype=torch.float64)
        for each, group in zip(asked, groups, strict=True)
        for reply in group
    ]
    of_tokens, of_replies = torch.cat(apart), torch.stack([reply.sum() for reply in apart])
    return Gap(
        n_tokens=len(of_tokens),
        n_replies=len(of_replies),
        mean=float(of_tokens.abs().mean()),
        largest=float(of_tokens.abs().max()),
        kl=float((torch.expm1(of_tokens) - of_tokens).mean()),
        token_sample_size=effective_share(of_tokens),
        reply_sample_size=effective_share(of_replies),
    )


def effective_share(log_weights: torch.Tensor) -> float:
    """Return the effective sample size of weights, as a share of their number."""
    weights = (log_weights - log_weights.max()).exp()
    return float(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))


@torch.no_grad()
def _own_log_probs(base: Base, prompt: Sequence[int], ids: Sequence[int]) -> torch.Tensor:
    logits_TV = base.model(torch.tensor([[*prompt, *ids]])).logits_BTV[0, len(prompt) - 1 : -1].double()
    return torch.log_softmax(logits_TV, -1)[range(len(ids)), list(ids)]
