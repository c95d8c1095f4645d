"""Samples several replies to one prompt from a model in training; the prompt is evaluated only once.

Tokens are drawn from the full distribution at a temperature, without top-k or top-p, since the policy gradient
assumes the distribution that was sampled from. The log-probability of each token is returned, so that a trainer
can measure how far its own values are from the sampler's.

Letters: G replies, T tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from modelstack.architecture.cache import Cache
from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.reasoning.sampling.sampled import Asked, Sampled
from modelstack.train.evaluation import in_use


@dataclass(frozen=True, slots=True)
class TorchSampler:
    """Sampler that uses the current weights of a model, one prompt at a time."""

    model: CausalLM
    end_ids: frozenset[int]
    max_tokens: int
    temperature: float = 1.0

    def sample(self, asked: Sequence[Asked], n_replies: int) -> list[list[Sampled]]:
        """Return the replies to each prompt; see `sample_group`."""
        return [
            sample_group(
                self.model,
                each.prompt_ids,
                n_replies,
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                end_ids=self.end_ids,
                seed=each.seed,
            )
            for each in asked
        ]


@torch.no_grad()
def sample_group(
    model: CausalLM,
    prompt_ids: Sequence[int],
    n_replies: int,
    *,
    max_tokens: int,
    temperature: float = 1.0,
    end_ids: frozenset[int],
    seed: int,
) -> list[Sampled]:
    """Return G replies to a prompt; the model's mode and torch's random state are restored afterwards.

    Args:
        model: Policy, on its own device.
        prompt_ids: Token ids of the prompt, at least one.
        n_replies: Number of replies G.
        max_tokens: Maximum number of tokens in a reply.
        temperature: Divisor of the logits; 0 selects greedy decoding, which makes all replies equal.
        end_ids: Tokens that end a reply.
        seed: Random seed; the same model, prompt and seed give the same replies.

    Raises:
        UserError: The temperature is negative, or prompt and reply exceed the model's context length.
    """
    if temperature < 0:
        raise UserError(f"temperature is {temperature}; it must be 0 (greedy) or above")
    if len(prompt_ids) + max_tokens > (longest := model.config.max_position_embeddings):
        raise UserError(
            f"a prompt of {len(prompt_ids)} tokens and {max_tokens} more exceed the context of {longest}; "
            f"lower max_tokens or leave such prompts out"
        )
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    written: list[list[int]] = [[] for _ in range(n_replies)]
    log_probs: list[list[float]] = [[] for _ in range(n_replies)]
    is_open = [True] * n_replies
    with in_use(model):
        cache = model.new_cache()
        first = model(torch.tensor([list(prompt_ids)], device=device), cache=cache, last_only=True)
        logits_GV = first.logits_BTV[:, -1].float().cpu().expand(n_replies, -1)
        cache = repeated(cache, n_replies)
        for n_written in range(1, max_tokens + 1):
            tokens_G, log_probs_G = _drawn(logits_GV, temperature, generator)
            for g, (token, log_prob) in enumerate(zip(tokens_G.tolist(), log_probs_G.tolist(), strict=True)):
                if is_open[g]:
                    written[g].append(token)
                    log_probs[g].append(log_prob)
                    is_open[g] = token not in end_ids
            if n_written == max_tokens or not any(is_open):
                break
            # A finished reply continues unrecorded, since all rows of a batch have one length.
            output = model(tokens_G[:, None].to(device), cache=cache, last_only=True)
            logits_GV = output.logits_BTV[:, -1].float().cpu()
    return [
        Sampled(tuple(ids), tuple(of_ids), unfinished)
        for ids, of_ids, unfinished in zip(written, log_probs, is_open, strict=True)
    ]


def _drawn(logits_GV: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return one token per row and its log-probability, [G]."""
    log_p_GV = torch.log_softmax(logits_GV / (temperature or 1.0), dim=-1)
    if temperature == 0:
        tokens_G1 = log_p_GV.argmax(-1, keepdim=True)
    else:
        tokens_G1 = torch.multinomial(log_p_GV.exp(), 1, generator=generator)
    return tokens_G1[:, 0], log_p_GV.gather(-1, tokens_G1)[:, 0]


def repeated(cache: Cache, n: int) -> Cache:
    """Return a copy of a cache for n equal sequences, made from a cache for one."""
    return Cache([_repeated(layer, n) for layer in cache.layers], cache.n_tokens)


def _repeated(part: Any, n: int) -> Any:
    """Return a part of a layer's cache with its first axis repeated from length 1 to n."""
    if isinstance(part, Tensor):
        return part.repeat_interleave(n, dim=0)
    if isinstance(part, list | tuple):
        return type(part)(_repeated(each, n) for each in part)
    if is_dataclass(part) and not isinstance(part, type):
        made = copy.copy(part)
        for field in fields(part):
            setattr(made, field.name, _repeated(getattr(part, field.name), n))
        return made
    return part
