"""Samples replies to many prompts in batches of equal prompt length, which need no padding and no mask.

For tasks from one template, whose prompts have few different lengths; `group_sampler` serves groups that share
one prompt. Each prompt has its own random stream, so its replies do not depend on the other prompts of the
batch, except for rounding in larger matrices.

Letters: R rows (one reply to one prompt each), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.reasoning.sampling.sampled import Asked, Sampled
from modelstack.train.evaluation import in_use


@dataclass(frozen=True, slots=True)
class EqualLengthSampler:
    """Sampler that uses the current weights of a model."""

    model: CausalLM
    end_ids: frozenset[int]
    max_tokens: int
    temperature: float = 1.0
    """Divisor of the logits; 0: greedy decoding."""
    max_rows: int = 256
    """Maximum number of replies in a batch."""

    def sample(self, asked: Sequence[Asked], n_replies: int) -> list[list[Sampled]]:
        """Return the replies to each prompt, in order.

        Raises:
            UserError: A prompt and its reply exceed the model's context length, or the temperature is negative.
        """
        if self.temperature < 0:
            raise UserError(f"temperature is {self.temperature}; it must be 0 (greedy) or above")
        longest = max((len(each.prompt_ids) for each in asked), default=0)
        if longest + self.max_tokens > (room := self.model.config.max_position_embeddings):
            raise UserError(
                f"a prompt of {longest} tokens and {self.max_tokens} more exceed the context of {room}; lower "
                f"max_tokens or leave such prompts out"
            )
        rows = [(number, each, g) for number, each in enumerate(asked) for g in range(n_replies)]
        found: list[list[Sampled]] = [[] for _ in asked]
        with torch.no_grad(), in_use(self.model):
            for part in self._parts(rows):
                streams = [torch.Generator().manual_seed(_seed(each.seed, g)) for _, each, g in part]
                replies = self._written([each.prompt_ids for _, each, _ in part], streams)
                for (number, _, _), reply in zip(part, replies, strict=True):
                    found[number].append(reply)
        return found

    def _parts(self, rows: Sequence[tuple[int, Asked, int]]) -> Iterator[list[tuple[int, Asked, int]]]:
        """Yield batches of rows with equal prompt length, at most `max_rows` each."""
        of_length: dict[int, list[tuple[int, Asked, int]]] = {}
        for row in rows:
            of_length.setdefault(len(row[1].prompt_ids), []).append(row)
        for several in of_length.values():
            for start in range(0, len(several), self.max_rows):
                yield several[start : start + self.max_rows]

    def _written(self, prompts: Sequence[Sequence[int]], streams: Sequence[torch.Generator]) -> list[Sampled]:
        device = next(self.model.parameters()).device
        ids: list[list[int]] = [[] for _ in prompts]
        log_probs: list[list[float]] = [[] for _ in prompts]
        is_open = [True] * len(prompts)
        cache = self.model.new_cache()
        fed_RT = torch.tensor([list(prompt) for prompt in prompts], device=device)
        for _ in range(self.max_tokens):
            logits_RV = self.model(fed_RT, cache=cache, last_only=True).logits_BTV[:, -1].float().cpu()
            tokens_R, log_probs_R = self._drawn(logits_RV, streams)
            for r, (token, log_prob) in enumerate(zip(tokens_R.tolist(), log_probs_R.tolist(), strict=True)):
                if is_open[r]:
                    ids[r].append(token)
                    log_probs[r].append(log_prob)
                    is_open[r] = token not in self.end_ids
            if not any(is_open):
                break
            # A finished reply continues unrecorded, since all rows of a batch have one length.
            fed_RT = tokens_R[:, None].to(device)
        return [
            Sampled(tuple(written), tuple(of_tokens), unfinished)
            for written, of_tokens, unfinished in zip(ids, log_probs, is_open, strict=True)
        ]

    def _drawn(self, logits_RV: Tensor, streams: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Return one token per row and its log-probability, [R]."""
        log_p_RV = torch.log_softmax(logits_RV / (self.temperature or 1.0), dim=-1)
        if self.temperature == 0:
            tokens_R = log_p_RV.argmax(-1)
        else:
            sums_RV = log_p_RV.double().exp().cumsum(-1)
            uniform_R1 = torch.cat([torch.rand(1, 1, generator=stream, dtype=torch.float64) for stream in streams])
            # `right=True`, so that a token with probability 0 is never drawn.
            tokens_R = torch.searchsorted(sums_RV, uniform_R1 * sums_RV[:, -1:], right=True)[:, 0]
            tokens_R = tokens_R.clamp(max=logits_RV.shape[-1] - 1)
        return tokens_R, log_p_RV.gather(-1, tokens_R[:, None])[:, 0]


def _seed(seed: int, number: int) -> int:
    """Return the seed of a prompt's `number`-th reply."""
    return (seed + 0x9E3779B97F4A7C15 * number) % 2**63
