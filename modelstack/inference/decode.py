"""The decode loop over one conversation: evaluates what a reply needs, in batches of the right size.

A plain function over small parts (evaluate, reply), so that it can be tested without a model. `Reply` decides
which tokens follow; this loop evaluates tokens when their logits are needed. The last token of a reply is not
evaluated: the next turn, which needs an evaluation anyway, makes its KV entry. The implementation of `Evaluate`
records the content of the cache, not this loop.

Letters: V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.engine import Generation
from modelstack.inference.reply import Reply

MAX_REPLY_BATCH = 32
"""Maximum number of tokens of a forced block evaluated at once. Up to this size, logits with llama.cpp's flash
attention equal those of single tokens bit for bit. From 64 on it uses other kernels, and logits differ by up to
0.9 (measured with SmolLM2-135M in Q4_1; `LlamaCppEngine.batch_invariant` tells whether any size matters)."""


class Evaluate(Protocol):
    """Appends tokens to the conversation's cache and returns the logits after the last one."""

    def __call__(self, ids: Sequence[int], *, want_logits: bool) -> NDArray[np.float32] | None:
        """Return V logits, valid until the next call; None unless `want_logits`."""
        ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How tokens are evaluated."""

    evaluate: Evaluate
    n_batch: int
    """Number of tokens evaluated between two checks for cancellation."""
    n_cut: int = 0
    """Number of uncached prompt tokens that are evaluated first, in separate batches."""


def decode(prompt_rest: Sequence[int], reply: Reply, evaluation: Evaluation) -> Generation:
    """Evaluate the uncached rest of a prompt (at least one token) and continue it by a reply.

    Raises:
        EngineError: the evaluation failed, or the grammar is at a dead end.
        GrammarError: the grammar refused a token that its own mask allowed.
    """
    prompt = list(prompt_rest)
    n_evaluated = 0
    while reply.advance():
        logits = _evaluated(prompt, reply.out.ids[n_evaluated:], reply, evaluation)
        if logits is None:
            reply.finish("cancelled")
        else:
            prompt, n_evaluated = [], len(reply.out.ids)
            reply.take(logits)
    return reply.out


def _evaluated(
    prompt: list[int], ids: list[int], reply: Reply, evaluation: Evaluation
) -> NDArray[np.float32] | None:
    """Evaluate tokens in batches, and return the last logits; None if cancelled between two batches.

    Batches are large for the prompt and small for the reply, and never mixed. A reply is therefore computed by the
    same kernels whether its tokens come singly or as a forced block, and jump-ahead does not change the sampled
    tokens.
    """
    n_batch, n_cut = evaluation.n_batch, evaluation.n_cut
    of_prompt = [*_cut(prompt[:n_cut], n_batch), *_cut(prompt[n_cut:], n_batch)]
    batches = [*of_prompt, *_cut(ids, min(n_batch, MAX_REPLY_BATCH))]
    logits: NDArray[np.float32] | None = None
    stats = reply.out.stats
    for number, batch in enumerate(batches):
        if number and reply.is_cancelled:
            return None
        start = perf_counter()
        logits = evaluation.evaluate(batch, want_logits=number == len(batches) - 1)
        if number < len(of_prompt):
            stats.prefilled_tokens += len(batch)
            stats.prefill_s += perf_counter() - start
        else:
            stats.forward_calls += 1
    return logits


def _cut(ids: list[int], size: int) -> list[list[int]]:
    return [ids[first : first + size] for first in range(0, len(ids), size)]
