"""Several replies to one prompt by a model in training: the prompt is read once, the replies are written together.

Tokens are drawn from the whole distribution at a temperature, without top-k or top-p: a policy gradient is of the
distribution that was sampled from. Each token's log-probability is returned, so a trainer can tell how far its own
figures are from the sampler's.

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
    """The model in training samples itself; one prompt at a time."""

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
    """Return G replies to a prompt; the model's mode and torch's random numbers are as before afterwards.

    Args:
        model: On its own device.
        prompt_ids: At least one token.
        n_replies: G.
        max_tokens: Of a reply.
        temperature: What logits are divided by; 0: the most probable token, and all replies are the same.
        end_ids: Tokens that end a reply.
        seed: The same model, prompt and seed give the same replies.

    Raises:
        UserError: The temperature is negative, or prompt and reply are longer than the model's context.
    """
    if temperature < 0:
        raise UserError(f"temperature is {temperature}; it is 0 (greedy) or above")
    if len(prompt_ids) + max_tokens > (longest := model.config.max_position_embeddings):
        raise UserError(
            f"a prompt of {len(prompt_ids)} tokens and {max_tokens} more are over the context of {longest}; "
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
            # A reply that has ended goes on unseen: rows of a batch have one length.
            output = model(tokens_G[:, None].to(device), cache=cache, last_only=True)
            logits_GV = output.logits_BTV[:, -1].float().cpu()
    return [
        Sampled(tuple(ids), tuple(of_ids), unfinished)
        for ids, of_ids, unfinished in zip(written, log_probs, is_open, strict=True)
    ]


def _drawn(logits_GV: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a token of each row and its log-probability, [G]."""
    log_p_GV = torch.log_softmax(logits_GV / (temperature or 1.0), dim=-1)
    if temperature == 0:
        tokens_G1 = log_p_GV.argmax(-1, keepdim=True)
    else:
        tokens_G1 = torch.multinomial(log_p_GV.exp(), 1, generator=generator)
    return tokens_G1[:, 0], log_p_GV.gather(-1, tokens_G1)[:, 0]


def repeated(cache: Cache, n: int) -> Cache:
    """Return a cache of one sequence as that of n equal ones, with memory of its own."""
    return Cache([_repeated(layer, n) for layer in cache.layers], cache.n_tokens)


def _repeated(part: Any, n: int) -> Any:
    """Return what a layer's cache holds with its first axis, of length 1, made n."""
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
