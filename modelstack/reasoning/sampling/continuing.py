"""Continues many prompts at once with the policy's current weights; replies of one prompt share its evaluation.

Rows of all prompts run in one batch: each reads as many tokens as it has to read, a finished row leaves, and the
next takes its place. Rows draw independently. A policy is the model in training, evaluated by the torch engine's
batches (`TorchPolicy`), or llama.cpp's copy of it (`llama.policy`). Torch models whose past is not kept in blocks
are continued one prompt at a time (`lockstep`).

Letters: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.inference.rows import Choose, advance_rows
from modelstack.inference.scheduler import StepLimits
from modelstack.inference.streams import Stream
from modelstack.inference.torch.lockstep import LockstepBatch
from modelstack.inference.torch.stream_batch import StreamBatch, is_paged, token_bytes
from modelstack.train.evaluation import in_use

MAX_ROWS = 256
"""Maximum number of rows that are written together."""
MAX_STEP_TOKENS = 512
"""Maximum number of tokens evaluated together."""
MAX_CACHE_BYTES = 2**30
"""Bytes of keys and values, unless one row alone needs more."""
BLOCK_TOKENS = 4
"""Tokens per block. A prompt is shared in whole blocks, and each of its rows reads the rest again."""


class RowPolicy(Protocol):
    """Evaluates rows of tokens with the current weights of a policy."""

    def continue_rows(
        self, prompts: Sequence[Sequence[int]], n_rows: Sequence[int], choose: Choose, max_tokens: int
    ) -> None:
        """Advance all rows until each has ended.

        Args:
            prompts: Token ids of the prompts, at least one each.
            n_rows: Number of rows of each prompt.
            choose: Decides what follows; rows are numbered from 0, prompt by prompt.
            max_tokens: Maximum number of tokens that a row reads.

        Raises:
            UserError: Prompt and continuation exceed the model's context length.
            EngineError: The evaluation failed.
        """
        ...


class Continuation(Protocol):
    """State of one row, which decides which tokens follow the prompt."""

    def next_ids(self, logits_V: NDArray[np.float32]) -> Sequence[int]:
        """Return the next tokens, given the logits after the last token read.

        Returns:
            Tokens to read before the next call; an empty sequence if the row has ended.
        """
        ...


def continue_together(
    policy: RowPolicy, prompts: Sequence[Sequence[int]], rows: Sequence[Sequence[Continuation]], max_tokens: int
) -> None:
    """Advance the rows of all prompts until each has ended; see `RowPolicy.continue_rows`.

    Args:
        policy: Evaluates the rows.
        prompts: Token ids of the prompts.
        rows: Continuations of each prompt.
        max_tokens: Maximum number of tokens that a row reads.

    Raises:
        UserError: Prompt and continuation exceed the model's context length.
        EngineError: The evaluation failed.
    """
    flat = [row for of_prompt in rows for row in of_prompt]

    def choose(numbers: Sequence[int], logits_RV: NDArray[np.float32]) -> list[Sequence[int]]:
        return [flat[r].next_ids(logits_V) for r, logits_V in zip(numbers, logits_RV, strict=True)]

    policy.continue_rows(prompts, [len(of_prompt) for of_prompt in rows], choose, max_tokens)


def require_context(prompts: Sequence[Sequence[int]], max_tokens: int, room: int) -> None:
    """Check that prompts and what follows fit into a model's context of `room` tokens.

    Raises:
        UserError: They do not.
    """
    longest = max((len(prompt) for prompt in prompts), default=0)
    if longest + max_tokens > room:
        raise UserError(
            f"a prompt of {longest} tokens and {max_tokens} more exceed the context of {room}; "
            f"lower max_tokens or leave such prompts out"
        )


@dataclass(frozen=True, slots=True)
class TorchPolicy:
    """The model in training, on its own device; its mode and torch's random state are restored after each call."""

    model: CausalLM

    def continue_rows(
        self, prompts: Sequence[Sequence[int]], n_rows: Sequence[int], choose: Choose, max_tokens: int
    ) -> None:
        """Advance all rows until each has ended; see `RowPolicy`."""
        model = self.model
        require_context(prompts, max_tokens, model.config.max_position_embeddings)
        with in_use(model):
            if is_paged(model.config):
                self._in_batches(prompts, n_rows, choose, max_tokens)
                return
            rows = LockstepBatch(model)
            advance_rows(rows, rows.submit, prompts, n_rows, choose, max_rows=1)

    def _in_batches(
        self, prompts: Sequence[Sequence[int]], n_rows: Sequence[int], choose: Choose, max_tokens: int
    ) -> None:
        rows = [prompt for prompt, n in zip(prompts, n_rows, strict=True) for _ in range(n)]
        lengths = sorted((len(prompt) + max_tokens + BLOCK_TOKENS for prompt in rows), reverse=True)[:MAX_ROWS]
        n_tokens = max(min(sum(lengths), MAX_CACHE_BYTES // token_bytes(self.model)), *lengths[:1], 1)
        limits = StepLimits(MAX_ROWS, MAX_STEP_TOKENS)
        batch = StreamBatch(self.model, n_tokens, limits, block_tokens=BLOCK_TOKENS)

        def submit(prompt: Sequence[int], ids: Sequence[int]) -> Stream:
            return batch.queue.submit([*prompt, *ids], len(prompt) + max_tokens)

        advance_rows(batch, submit, prompts, n_rows, choose, MAX_ROWS)
