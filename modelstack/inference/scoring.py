"""Log-likelihoods of given texts: of a continuation, or of a whole document.

Multiple-choice benchmarks and bits-per-byte are built on them. The model sees exactly the tokens of context and
continuation encoded together. Spaces at the end of a context belong to the continuation, because tokenizers put a
space before a word (as in lm-evaluation-harness). If a merge crosses the border nevertheless, the merged token is
scored with the continuation, so that each of its bytes counts once. Continuations of one context share its cache
entries: each evaluates its own tokens and the context's last token, whose logits it needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.engine import Engine, EngineError
from modelstack.tokenizer.vocabulary import Vocabulary

SCORED_BATCH = 64
"""Number of tokens whose logits are held at once: 40 MB at a vocabulary of 150,000, and wide enough matrices."""
DOCUMENT_STARTS = (b"<|endoftext|>", b"<|end_of_text|>", b"<|begin_of_text|>", b"</s>", b"<eos>")
"""Separators of documents in pretraining, for models without a begin token."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """The scores of given tokens; the lists are parallel, with one entry per scored token."""

    logprobs: tuple[float, ...]
    """Natural log-probability under the full softmax at temperature 1."""
    greedy: tuple[bool, ...]
    """Whether the token is the most probable one at its position."""


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """The score of a continuation as a whole."""

    logprob: float
    """Sum of the natural log-probabilities of its tokens."""
    is_greedy: bool
    """Whether greedy decoding would write exactly this continuation."""
    n_tokens: int


class ScoringEngine(Engine, Protocol):
    """An engine that can score given tokens."""

    def score_tokens(
        self,
        ids: Sequence[int],
        n_context: int,
        *,
        conversation: str = "score",
        cancelled: Callable[[], bool] | None = None,
    ) -> TokenScores:
        """Score each of `ids[n_context:]` after all tokens before it; the last one is not evaluated itself.

        Raises:
            ContextWindowError: there are more tokens than the window holds.
            EngineError: `n_context` is not between 1 and the number of tokens less 1, or the backend failed.
        """
        ...


def document_start(vocabulary: Vocabulary) -> int:
    """Return the token before a text without context: BOS, or the separator of documents."""
    if vocabulary.bos_id is not None:
        return vocabulary.bos_id
    for name in DOCUMENT_STARTS:
        for token in sorted(vocabulary.special_ids):
            if vocabulary.token_bytes[token] == name:
                return token
    return vocabulary.end_ids[0]


def encode_pair(vocabulary: Vocabulary, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Return the tokens of context and continuation, encoded together; the context gets at least one token.

    Raises:
        ValueError: the continuation is empty.
    """
    if not continuation:
        raise ValueError("an empty continuation has no log-likelihood")
    kept = context.rstrip()
    whole = vocabulary.encode(context + continuation)
    n_context = _common_length(whole, vocabulary.encode(kept))
    if vocabulary.bos_id is not None or n_context == 0:
        whole = [document_start(vocabulary), *whole]
        n_context += 1
    return whole[:n_context], whole[n_context:]


def continuation_logprob(
    engine: ScoringEngine,
    context_ids: Sequence[int],
    continuation_ids: Sequence[int],
    *,
    conversation: str = "score",
    cancelled: Callable[[], bool] | None = None,
) -> ContinuationScore:
    """Score one continuation; a context that exceeds the window is cut off on its left.

    Raises:
        ContextWindowError: the continuation alone does not fit.
        EngineError: context or continuation is empty, or the backend failed.
    """
    if not context_ids or not continuation_ids:
        raise EngineError("context and continuation need at least one token each; see document_start()")
    # The last token is not evaluated; one token of context must remain for the first logits.
    n_kept = min(len(context_ids), max(1, engine.context_window + 1 - len(continuation_ids)))
    context = list(context_ids[-n_kept:])
    scores = engine.score_tokens(
        [*context, *continuation_ids], len(context), conversation=conversation, cancelled=cancelled
    )
    return ContinuationScore(math.fsum(scores.logprobs), all(scores.greedy), len(scores.logprobs))


def continuation_logprobs(
    engine: ScoringEngine,
    context: str,
    continuations: Sequence[str],
    *,
    conversation: str = "score",
    cancelled: Callable[[], bool] | None = None,
) -> list[ContinuationScore]:
    """Score several continuations of one context, which is evaluated once.

    Raises:
        ContextWindowError: a continuation alone does not fit.
        EngineError: the backend failed.
        ValueError: a continuation is empty.
    """
    pairs = [encode_pair(engine.vocabulary, context, continuation) for continuation in continuations]
    return [
        continuation_logprob(engine, ids, rest, conversation=conversation, cancelled=cancelled)
        for ids, rest in pairs
    ]


def document_logprobs(
    engine: ScoringEngine,
    text: str,
    *,
    window: int | None = None,
    stride: int | None = None,
    conversation: str = "score",
    cancelled: Callable[[], bool] | None = None,
) -> list[float]:
    """Return the natural log-probability of every token of a document.

    Args:
        engine: The model.
        text: The document; only `document_start` precedes it.
        window: Number of tokens that the model sees at once; None: the engine's context window.
        stride: Number of tokens by which the window moves. Except in the first window, tokens are scored after at
            least window - stride tokens of context. None: half the window.
        conversation: Name of the conversation whose cache entries are used.
        cancelled: Called between batches; True stops the scoring.

    Raises:
        ValueError: the window is larger than the engine's, or the stride is not between 1 and the window.
        EngineError: the backend failed.
    """
    window = engine.context_window if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= window <= engine.context_window or not 1 <= stride <= window:
        raise ValueError(
            f"window is {window} and stride {stride}; they must be at least 1, the stride at most the window, and "
            f"the window at most {engine.context_window}, the engine's"
        )
    ids = [document_start(engine.vocabulary), *engine.vocabulary.encode(text)]
    logprobs: list[float] = []
    for start, first, stop in rolling_windows(len(ids), window, stride):
        scores = engine.score_tokens(
            ids[start:stop], first - start, conversation=conversation, cancelled=cancelled
        )
        logprobs += scores.logprobs
    return logprobs


def rolling_windows(n_tokens: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, first scored, stop) so that every token except the first is scored once.

    A window evaluates `stop - start - 1 <= window` tokens; its last token is only scored.
    """
    first = 1
    while first < n_tokens:
        stop = min(n_tokens, window + 1 if first == 1 else first + stride)
        yield max(0, stop - window - 1), first, stop
        first = stop


def given_batches(n_cached: int, first: int, n_tokens: int, n_batch: int) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, whether outputs are read): batches of given tokens that are read from `first` on."""
    start = n_cached
    while start < first:
        end = min(first, start + n_batch)
        yield start, end, False
        start = end
    while start < n_tokens:
        end = min(n_tokens, start + min(n_batch, SCORED_BATCH))
        yield start, end, True
        start = end


def log_probability(logits_V: NDArray[np.float32], token: int) -> tuple[float, bool]:
    """Return a token's natural log-probability under V logits, and whether it is the most probable one."""
    shifted = logits_V.astype(np.float64)
    shifted -= shifted.max()
    return float(shifted[token] - math.log(np.exp(shifted).sum())), bool(shifted[token] == 0.0)


def _common_length(left: Sequence[int], right: Sequence[int]) -> int:
    n = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        n += 1
    # At least one token must remain for the continuation.
    return min(n, len(left) - 1)
