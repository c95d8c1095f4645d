"""Measurements of a model on this machine: the best thread counts, and whether batch sizes change logits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.llama.batch import DECODE_OK
from modelstack.inference.llama.model import LlamaContext
from modelstack.inference.llama.threads import ThreadCounts, available_cores, candidate_counts, fastest_count
from modelstack.inference.remembered import RememberedFacts, cpu_quota, is_idle, processor

MEASURE_TOKEN_S = 0.1
"""Seconds per token on one thread above which a model is not measured: it needs all cores."""
MEASURE_BATCH_S = 1.0
"""The same limit for a batch; also about the time to choose thread counts on a quiet machine."""
MEASURED_CALLS = 4
MEASURED_BATCH = 64
CUT_TOKENS, CUT_SINGLES, CUT_STRIDE = 40, 12, 7919
"""Sizes of the comparison. For 4, 8 or 16 rows, kernels of K-quants sum in another order than for one row: about
one value in 1,000 differs after rounding to 16 bits, so a few thousand values are compared. The stride spreads the
tokens over the vocabulary."""


def choose_threads(
    context: LlamaContext,
    n_cells: int,
    files: Sequence[Path],
    facts: RememberedFacts | None,
    n_threads: int | None,
    n_threads_prefill: int | None,
) -> ThreadCounts:
    """Return thread counts, measured unless given; the context must be empty, and is empty afterwards.

    Counts measured on an idle machine within a day are not measured again while it is idle.
    """
    n_cores = available_cores()
    is_given = n_threads is not None or n_threads_prefill is not None
    if facts is None or is_given or not is_idle(n_cores):
        return _measure_threads(context, n_cells, n_cores, n_threads, n_threads_prefill)
    sizes = [(str(file.resolve()), file.stat().st_size) for file in files]
    settings = (processor(), cpu_quota(), n_cores, context.flash_attention, context.n_batch, sizes)
    situation = hashlib.sha256(repr(settings).encode()).hexdigest()
    if (known := facts.threads(situation)) is not None:
        return known
    counts = _measure_threads(context, n_cells, n_cores, None, None)
    if is_idle(n_cores):
        facts.learn_threads(situation, counts)
    return counts


def _measure_threads(
    context: LlamaContext, n_cells: int, n_cores: int, n_threads: int | None, n_threads_prefill: int | None
) -> ThreadCounts:
    def time(n: int, n_tokens: int) -> float:
        return _time(context, n, n_tokens)

    counts = candidate_counts(n_cores)
    if n_threads is None:
        n_threads = fastest_count(lambda n: time(n, 1), counts, MEASURE_TOKEN_S)
    if n_threads_prefill is None:
        n_batch = min(MEASURED_BATCH, context.n_batch, n_cells)
        is_large = time(n_threads, 1) > MEASURE_TOKEN_S
        n_threads_prefill = (
            counts[-1] if is_large else fastest_count(lambda n: time(n, n_batch), counts, MEASURE_BATCH_S)
        )
    return ThreadCounts(decode=n_threads, prefill=n_threads_prefill)


def _time(context: LlamaContext, n_threads: int, n_tokens: int) -> float:
    """Return the seconds of the fastest of a few evaluations of `n_tokens`; leaves the cache empty."""
    context.set_threads(n_threads, n_threads)
    best, started = math.inf, perf_counter()
    for _ in range(MEASURED_CALLS):
        start = perf_counter()
        context.evaluate([0] * n_tokens, position=0, sequence=0, want_logits=True)
        best = min(best, perf_counter() - start)
        context.remove(0, 0)
        if perf_counter() - started > MEASURE_TOKEN_S:
            break
    return best


def cuts_change_nothing(context: LlamaContext, sequence: int, n_vocab: int) -> bool:
    """Whether KV entries and logits of some tokens stay the same, bit for bit, if the first tokens come singly.

    `sequence` must be empty, and is empty afterwards. False if the tokens do not fit beside other sequences.
    """
    ids = [(CUT_STRIDE * n + 1) % n_vocab for n in range(min(CUT_TOKENS, context.n_batch))]
    n_singles = min(CUT_SINGLES, len(ids) - 1)
    found: list[tuple[NDArray[np.uint8] | None, NDArray[np.float32]]] = []
    for batches in ([ids], [*([token] for token in ids[:n_singles]), ids[n_singles:]]):
        position = 0
        for batch in batches:
            if context.evaluate(batch, position=position, sequence=sequence, want_logits=True) != DECODE_OK:
                context.remove(sequence, 0)
                return False
            position += len(batch)
        found.append((context.save(sequence), context.logits().copy()))
        context.remove(sequence, 0)
    (whole, whole_logits_V), (cut, cut_logits_V) = found
    if whole is None or cut is None:
        return False
    return bool(np.array_equal(whole, cut) and np.array_equal(whole_logits_V, cut_logits_V))
