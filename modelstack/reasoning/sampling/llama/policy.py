"""Rollouts by llama.cpp with the quantised weights used in serving, for a model trained in torch.

As in every engine that samples for a trainer (vLLM in TRL and open-instruct; FlashRL with quantised weights), a
separate program with other number types and kernels is several times faster and assigns almost the same
probabilities. The sampled log-probabilities are llama.cpp's own, and `losses.sampler_correction` corrects for the
difference.

A prefix common to all prompts (a system prompt with tools) is read once while the weights stay the same. Replies
depend only on the weights, the prefix and the call, bit for bit: between calls the cache holds only the prefix, in
the same cells, evaluated in the same batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import TracebackType

from modelstack.errors import UserError
from modelstack.inference.engine import GenerationStats
from modelstack.inference.llama.sequence_queue import SequenceStream
from modelstack.inference.rows import Choose, advance_rows
from modelstack.posttrain.base import Base
from modelstack.reasoning.sampling.continuing import require_context
from modelstack.reasoning.sampling.llama.served_policy import LlamaSampling, ServedPolicy


class LlamaPolicy:
    """A base's model as a `RowPolicy` on llama.cpp; free its memory with `close` or a `with` block."""

    def __init__(self, base: Base, plan: LlamaSampling | None = None, *, prefix: Sequence[int] = ()) -> None:
        """Store the settings; the model is loaded at the first request.

        Args:
            base: Base whose model is in training.
            plan: Settings of llama.cpp; None: the defaults.
            prefix: Common beginning of the prompts (`shared_prefix`), evaluated once per set of weights.
        """
        self._base = base
        self._plan = plan or LlamaSampling()
        self._served = ServedPolicy(base, self._plan, prefix)
        self._prefix = tuple(prefix)

    def continue_rows(
        self, prompts: Sequence[Sequence[int]], n_rows: Sequence[int], choose: Choose, max_tokens: int
    ) -> None:
        """Advance all rows until each has ended; see `RowPolicy`.

        Raises:
            UserError: A prompt and its reply exceed the model's context length, a prompt is no prompt of this
                model, or llama.cpp does not support the model.
            EngineError: llama.cpp failed.
        """
        if not prompts:
            return
        require_context(prompts, max_tokens, self._base.config.max_position_embeddings)
        self._check_ids(prompts)
        longest = max(len(prompt) - self._n_shared(prompt) for prompt in prompts)
        n_together = min(self._plan.max_rows, sum(n_rows))
        n_cells = min(n_together, len(prompts)) * longest + n_together * (max_tokens + 1)
        names = itertools.count()
        with self._served.queue(len(self._prefix) + n_cells) as queue:

            def submit(prompt: Sequence[int], ids: Sequence[int]) -> SequenceStream:
                return queue.submit(prompt, ids, GenerationStats(), conversation=str(next(names)))

            advance_rows(queue, submit, prompts, n_rows, choose, self._plan.max_rows)

    def close(self) -> None:
        """Free llama.cpp's memory. Idempotent; a later call loads the model again."""
        self._served.close()

    def __enter__(self) -> LlamaPolicy:
        """Return self; leaving the block closes the policy."""
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Close the policy."""
        self.close()

    def _n_shared(self, ids: Sequence[int]) -> int:
        n = len(self._prefix)
        return n if tuple(ids[:n]) == self._prefix else 0

    def _check_ids(self, prompts: Sequence[Sequence[int]]) -> None:
        vocab_size = self._base.config.vocab_size
        for number, ids in enumerate(prompts):
            if not ids:
                raise UserError(f"prompt {number} is empty; give at least one token")
            if not 0 <= min(ids) <= max(ids) < vocab_size:
                raise UserError(f"prompt {number} has token ids outside the vocabulary of {vocab_size}")


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
