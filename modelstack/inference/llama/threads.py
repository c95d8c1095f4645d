"""Thread counts for decoding and for prefill: measured, because no rule predicts them.

Decoding one token is limited by memory and by the barrier after every operation; a small model often decodes
fastest on one thread. A prompt batch is limited by arithmetic and uses all cores that it gets. Virtual machines,
cgroup quotas and hyper-threads make core counts misleading, so a few tokens are timed at load, for each count
separately.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

WORTH_IT = 0.92
"""Largest share of the smaller count's time that a larger count may take; idle cores have a value too."""


@dataclass(frozen=True, slots=True)
class ThreadCounts:
    """Threads for evaluating one token and for evaluating a batch of prompt tokens."""

    decode: int
    prefill: int


def available_cores() -> int:
    """Return the number of processors that this process may use, at most OMP_NUM_THREADS if that is set."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(n_cores, int(limit)) if limit.isdecimal() and int(limit) else n_cores


def candidate_counts(n_cores: int) -> list[int]:
    """Return the thread counts to try: one, doubled up to all cores."""
    counts = [1]
    while counts[-1] < n_cores:
        counts.append(min(2 * counts[-1], n_cores))
    return counts


def fastest_count(measure: Callable[[int], float], candidates: list[int], budget_s: float) -> int:
    """Return the thread count with the smallest `measure(count)` in seconds, going up while it improves.

    One thread comes first because it never stalls: on a busy machine a second one can make a token a hundred times
    slower, as each operation waits for a thread that is not running. A model for which this first measurement
    exceeds the budget is large and needs all cores.
    """
    best, best_s = candidates[0], measure(candidates[0])
    if best_s > budget_s:
        return candidates[-1]
    for count in candidates[1:]:
        seconds = measure(count)
        if seconds > best_s * WORTH_IT:
            break
        best, best_s = count, seconds
    return best
