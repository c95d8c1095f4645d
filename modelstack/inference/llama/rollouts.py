"""Groups of replies to many prompts on llama.cpp: each prompt is read once, and its replies are written together.

A prefix common to all prompts (a system prompt with tools) is read once while the weights stay the same. The rest
of each prompt is evaluated in the first reply's sequence; the other replies share its cells of the unified cache.
A finished reply leaves the batch and frees its cells. The next prompt begins as soon as its whole group fits among
the rows, so that a long reply does not run alone.

Sampled tokens depend only on the weights, the prefix and the call, bit for bit: between calls the cache holds only
the prefix, in the same cells, evaluated in the same batches. Each reply has its own random numbers, so the other
prompts of a call change a reply only by rounding.

Letters: G replies of a prompt, R rows: replies being written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.engine import EngineError
from modelstack.inference.llama.batch import DECODE_OK, SequencePart
from modelstack.inference.llama.model import LlamaContext
from modelstack.inference.row_sampling import draw_rows


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to continue."""

    ids: Sequence[int]
    seed: int


@dataclass(slots=True)
class Reply:
    """A continuation, while it is written and afterwards."""

    ids: list[int] = field(default_factory=list[int])
    """Tokens, including the end token if there is one."""
    log_probs: list[float] = field(default_factory=list[float])
    """Log-probability of each token at the sampling temperature."""
    is_ended: bool = False
    """Whether an end token ended it; False: it was cut off at the limit."""


@dataclass(frozen=True, slots=True)
class RolloutLimits:
    """Limits for writing replies."""

    max_tokens: int
    temperature: float
    end_ids: frozenset[int]
    max_rows: int
    """Number of replies written together. A group is never split, so a larger group is written alone."""


@dataclass(slots=True, eq=False)
class _Row:
    """A reply that is being written."""

    reply: Reply
    sequence: int
    position: int
    """Position of the token drawn last, which the cache does not hold yet."""
    uniforms: NDArray[np.float64]
    """Random numbers in [0, 1), one for each token."""


class RolloutWriter:
    """Writes replies in its own context; sequence 0 holds the prefix."""

    def __init__(self, context: LlamaContext, n_rows: int, prefix: Sequence[int] = ()) -> None:
        """Initialise with an empty context.

        Args:
            context: With `n_rows + 1` sequences.
            n_rows: Maximum number of replies being written.
            prefix: Common beginning of prompts; a prompt without it is read completely.
        """
        self._context = context
        self._n_rows = n_rows
        self._prefix = list(prefix)
        self._has_prefix = False

    def forget(self) -> None:
        """Drop the prefix from the cache, because it was evaluated with other weights."""
        for sequence in range(self._n_rows + 1):
            self._context.remove(sequence, 0)
        self._has_prefix = False

    def write(self, prompts: Sequence[Prompt], n_replies: int, limits: RolloutLimits) -> list[list[Reply]]:
        """Return G replies to each prompt, in order.

        Raises:
            EngineError: the cache is too small, llama.cpp failed, or logits are not finite; the cache is then
                empty.
        """
        groups = [[Reply() for _ in range(n_replies)] for _ in prompts]
        waiting = deque(zip(prompts, groups, strict=True))
        free = list(range(self._n_rows, 0, -1))
        rows: list[_Row] = []
        try:
            while waiting or rows:
                while waiting and (not rows or len(rows) + n_replies <= limits.max_rows):
                    prompt, replies = waiting.popleft()
                    rows += self._begun(prompt, replies, limits, free)
                rows = self._step(rows, limits, free)
        except BaseException:
            self.forget()
            raise
        return groups

    def _begun(
        self, prompt: Prompt, replies: Sequence[Reply], limits: RolloutLimits, free: list[int]
    ) -> list[_Row]:
        """Read a prompt and draw the first token of each reply; return the rows that continue."""
        first, *others = sequences = [free.pop() for _ in replies]
        n_read = self._fork_prefix(prompt.ids, first)
        self._read(prompt.ids[n_read:], n_read, first)
        for sequence in others:
            self._context.copy(first, sequence, len(prompt.ids))
        uniforms_GT = np.random.default_rng(prompt.seed).random((len(replies), limits.max_tokens))
        rows = [
            _Row(reply, sequence, len(prompt.ids) - 1, uniforms_T)
            for reply, sequence, uniforms_T in zip(replies, sequences, uniforms_GT, strict=True)
        ]
        logits_1V = self._context.logits()[None]
        logits_GV = np.broadcast_to(logits_1V, (len(rows), logits_1V.shape[1]))
        return self._drawn(rows, logits_GV, limits, free)

    def _fork_prefix(self, ids: Sequence[int], sequence: int) -> int:
        """Copy the prefix to a sequence if the prompt begins with it.

        Return the number of tokens it then holds.
        """
        n = len(self._prefix)
        # Logits exist only after an evaluated token, so at least one must be left to evaluate.
        if n == 0 or len(ids) <= n or list(ids[:n]) != self._prefix:
            return 0
        if not self._has_prefix:
            self._read(self._prefix, 0, 0)
            self._has_prefix = True
        self._context.copy(0, sequence, n)
        return n

    def _read(self, ids: Sequence[int], position: int, sequence: int) -> None:
        """Append tokens to a sequence, with logits after the last one."""
        size = self._context.n_batch
        for start in range(0, len(ids), size):
            part = ids[start : start + size]
            _check(
                self._context.evaluate(part, position=position + start, sequence=sequence, want_logits=1),
                len(part),
            )

    def _step(self, rows: list[_Row], limits: RolloutLimits, free: list[int]) -> list[_Row]:
        """Evaluate the last token of each row and draw the next; return the rows that continue."""
        if not rows:
            return rows
        parts = [SequencePart(row.sequence, row.position, row.reply.ids[-1:]) for row in rows]
        _check(self._context.evaluate_parts(parts), len(rows))
        return self._drawn(rows, self._context.logits_of_rows(len(rows)), limits, free)

    def _drawn(
        self, rows: Sequence[_Row], logits_RV: NDArray[np.float32], limits: RolloutLimits, free: list[int]
    ) -> list[_Row]:
        uniforms_R = np.array([row.uniforms[len(row.reply.ids)] for row in rows])
        tokens_R, log_probs_R = draw_rows(logits_RV, limits.temperature, uniforms_R)
        going_on = []
        for row, token, log_prob in zip(rows, tokens_R.tolist(), log_probs_R.tolist(), strict=True):
            row.reply.ids.append(token)
            row.reply.log_probs.append(log_prob)
            row.reply.is_ended = token in limits.end_ids
            row.position += 1
            if row.reply.is_ended or len(row.reply.ids) == limits.max_tokens:
                self._context.remove(row.sequence, 0)
                free.append(row.sequence)
            else:
                going_on.append(row)
        return going_on


def cells_needed(n_prefix: int, longest: int, n_replies: int, limits: RolloutLimits) -> int:
    """Return the number of KV cells for any call with prompts of up to `longest` tokens after the prefix."""
    n_rows = max(n_replies, limits.max_rows)
    # In the worst case every row is the last one of a different prompt.
    n_prompts = 1 if n_rows == n_replies else 1 + n_rows - n_replies
    return n_prefix + n_prompts * longest + n_rows * limits.max_tokens


def _check(code: int, n_tokens: int) -> None:
    if code != DECODE_OK:
        raise EngineError(f"llama.cpp failed to evaluate {n_tokens} tokens of rollouts (code {code})")
