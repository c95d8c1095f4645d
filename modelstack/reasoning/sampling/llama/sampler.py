"""Rollouts by llama.cpp with the quantised weights used in serving, for a model trained in torch.

As in every engine that samples for a trainer (vLLM in TRL and open-instruct; FlashRL with quantised weights), a
separate program with other number types and kernels is several times faster and assigns almost the same
probabilities. `Sampled.log_probs` are llama.cpp's own, and `losses.sampler_correction` corrects for the
difference.

Tokens are drawn from the full distribution, as in `sampling.group_sampler`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from modelstack.errors import UserError
from modelstack.inference.llama.rollouts import Prompt, Reply, RolloutLimits, cells_needed
from modelstack.posttrain.base import Base
from modelstack.reasoning.sampling.llama.served_policy import MAX_ROWS, LlamaSampling, ServedPolicy
from modelstack.reasoning.sampling.sampled import Asked, Sampled


class LlamaSampler:
    """Sampler that uses the current weights of a base's model; free its memory with `close` or a `with` block."""

    def __init__(
        self,
        base: Base,
        *,
        end_ids: frozenset[int],
        max_tokens: int,
        temperature: float = 1.0,
        plan: LlamaSampling | None = None,
        prefix: Sequence[int] = (),
    ) -> None:
        """Store the settings; the model is loaded at the first request.

        Args:
            base: Base whose model is in training.
            end_ids: Tokens that end a reply.
            max_tokens: Maximum number of tokens in a reply.
            temperature: Divisor of the logits; 0: greedy decoding.
            plan: Settings of llama.cpp; None: the defaults.
            prefix: Common beginning of the prompts (`shared_prefix`), evaluated once per set of weights.

        Raises:
            UserError: The temperature is negative.
        """
        if temperature < 0:
            raise UserError(f"temperature is {temperature}; it must be 0 (greedy) or above")
        self._base = base
        self._prefix = tuple(prefix)
        self._plan = plan or LlamaSampling()
        self._served = ServedPolicy(base, self._plan)
        self._limits = RolloutLimits(max_tokens, temperature, end_ids, self._plan.max_rows)

    def sample(self, asked: Sequence[Asked], n_replies: int) -> list[list[Sampled]]:
        """Return the replies to each prompt, in order; the same weights and the same call give the same replies.

        Raises:
            UserError: A prompt and its reply exceed the model's context length, `n_replies` exceeds llama.cpp's
                number of sequences, or llama.cpp does not support the model.
            EngineError: llama.cpp failed.
        """
        if not 1 <= n_replies <= MAX_ROWS:
            raise UserError(f"{n_replies} replies to a prompt: llama.cpp supports 1 to {MAX_ROWS} in a batch")
        if not asked:
            return []
        self._check(asked)
        self._served.follow()
        longest = max(len(each.prompt_ids) - self._n_shared(each.prompt_ids) for each in asked)
        n_cells = cells_needed(len(self._prefix), longest, n_replies, self._limits)
        writer = self._served.writer(n_cells, max(n_replies, self._plan.max_rows), self._prefix)
        prompts = [Prompt(each.prompt_ids, each.seed) for each in asked]
        groups = writer.write(prompts, n_replies, self._limits)
        return [[_sampled(reply) for reply in group] for group in groups]

    def close(self) -> None:
        """Free llama.cpp's memory. Idempotent; a later `sample` loads the model again."""
        self._served.close()

    def __enter__(self) -> LlamaSampler:
        """Return self; leaving the block closes the sampler."""
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Close the sampler."""
        self.close()

    def _n_shared(self, ids: Sequence[int]) -> int:
        n = len(self._prefix)
        return n if tuple(ids[:n]) == self._prefix else 0

    def _check(self, asked: Sequence[Asked]) -> None:
        longest = max(len(each.prompt_ids) for each in asked)
        limit = self._base.config.max_position_embeddings
        if longest + self._limits.max_tokens > limit:
            raise UserError(
                f"a prompt of {longest} tokens and {self._limits.max_tokens} more exceed the context of "
                f"{limit}; lower max_tokens or leave such prompts out"
            )
        vocab_size = self._base.config.vocab_size
        for each in asked:
            if not each.prompt_ids:
                raise UserError(f"the prompt of task {each.task.item.id!r} is empty; give at least one token")
            if not 0 <= min(each.prompt_ids) <= max(each.prompt_ids) < vocab_size:
                raise UserError(f"task {each.task.item.id!r} has token ids outside the vocabulary of {vocab_size}")


def shared_prefix(prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the common beginning of all prompts, leaving each prompt at least one further token."""
    if not prompts:
        return ()
    ordered = sorted(tuple(prompt) for prompt in prompts)
    first, last = ordered[0], ordered[-1]  # the first and the last in sorted order share the least
    n = 0
    for one, other in zip(first, last, strict=False):
        if one != other:
            break
        n += 1
    return first[: min(n, min(map(len, prompts)) - 1)]


def _sampled(reply: Reply) -> Sampled:
    return Sampled(tuple(reply.ids), tuple(reply.log_probs), is_truncated=not reply.is_ended)
