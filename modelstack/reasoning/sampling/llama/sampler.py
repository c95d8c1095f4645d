"""Rollouts by llama.cpp, on the quantised weights that will be served, for a model that trains in torch.

The idea is that of every engine that samples for a trainer (vLLM in TRL and open-instruct; FlashRL with quantised
weights): another program, other number types and other kernels are several times faster, and say almost the same
of each token. What is left between the two is in `Sampled.log_probs`, which are llama.cpp's own, and
`losses.sampler_correction` weights by it.

Tokens are drawn from the whole distribution, as `sampling.group_sampler` draws them.
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
    """Samples from a base's model as its weights are now; give the memory back with `close` or a `with` block."""

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
        """Load nothing yet.

        Args:
            base: Whose model is in training.
            end_ids: Tokens that end a reply.
            max_tokens: Of a reply.
            temperature: What logits are divided by; 0: the most probable token.
            plan: How llama.cpp samples; None: by default.
            prefix: What prompts begin with (`shared_prefix`): read once for as long as the weights stay.

        Raises:
            UserError: The temperature is negative.
        """
        if temperature < 0:
            raise UserError(f"temperature is {temperature}; it is 0 (greedy) or above")
        self._base = base
        self._prefix = tuple(prefix)
        self._plan = plan or LlamaSampling()
        self._served = ServedPolicy(base, self._plan)
        self._limits = RolloutLimits(max_tokens, temperature, end_ids, self._plan.max_rows)

    def sample(self, asked: Sequence[Asked], n_replies: int) -> list[list[Sampled]]:
        """Return the replies to each prompt, in order; the same weights and the same call give the same replies.

        Raises:
            UserError: A prompt and its reply are longer than the model's context, there are more replies than
                llama.cpp has sequences for, or the model has no form that it knows.
            EngineError: llama.cpp failed.
        """
        if not 1 <= n_replies <= MAX_ROWS:
            raise UserError(f"{n_replies} replies to a prompt: llama.cpp writes 1 to {MAX_ROWS} of them together")
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
        """Give llama.cpp's memory back. May be called twice; a later `sample` loads anew."""
        self._served.close()

    def __enter__(self) -> LlamaSampler:
        """Return self; leaving the block closes it."""
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _n_shared(self, ids: Sequence[int]) -> int:
        n = len(self._prefix)
        return n if tuple(ids[:n]) == self._prefix else 0

    def _check(self, asked: Sequence[Asked]) -> None:
        longest = max(len(each.prompt_ids) for each in asked)
        limit = self._base.config.max_position_embeddings
        if longest + self._limits.max_tokens > limit:
            raise UserError(
                f"a prompt of {longest} tokens and {self._limits.max_tokens} more are over the context of "
                f"{limit}; lower max_tokens or leave such prompts out"
            )
        vocab_size = self._base.config.vocab_size
        for each in asked:
            if not each.prompt_ids:
                raise UserError(f"the prompt of task {each.task.item.id!r} is empty; a model continues something")
            if not 0 <= min(each.prompt_ids) <= max(each.prompt_ids) < vocab_size:
                raise UserError(f"task {each.task.item.id!r} has token ids outside the vocabulary of {vocab_size}")


def shared_prefix(prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return what all prompts begin with, leaving each at least one token of its own."""
    if not prompts:
        return ()
    ordered = sorted(tuple(prompt) for prompt in prompts)
    first, last = ordered[0], ordered[-1]  # the two that are furthest apart in order share least
    n = 0
    for one, other in zip(first, last, strict=False):
        if one != other:
            break
        n += 1
    return first[: min(n, min(map(len, prompts)) - 1)]


def _sampled(reply: Reply) -> Sampled:
    return Sampled(tuple(reply.ids), tuple(reply.log_probs), is_truncated=not reply.is_ended)
