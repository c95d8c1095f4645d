"""How many threads to decode with, and how many to prefill with: measured, since no rule holds.

Decoding one token is bound by memory and by the barrier behind every operation; a small model often decodes
fastest on one thread. A prompt batch is bound by arithmetic and takes what it gets. Virtual machines, cgroup
quotas and hyper-threads make core counts lie, so a few tokens are timed at load and the counts kept apart.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

WORTH_IT = 0.92
"""A larger count must take at most this share of the smaller one's time: idle cores are worth something."""


@dataclass(frozen=True, slots=True)
class ThreadCounts:
    """Threads for evaluating one token and for evaluating a batch of prompt tokens."""

    decode: int
    prefill: int


def available_cores() -> int:
    """Return the processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def candidate_counts(n_cores: int) -> list[int]:
    """Return thread counts to try: one, doubled up to all cores."""
    counts = [1]
    while counts[-1] < n_cores:
        counts.append(min(2 * counts[-1], n_cores))
    return counts


def fastest_count(measure: Callable[[int], float], candidates: list[int], budget_s: float) -> int:
    """Return the thread count with the least `measure(count)` seconds, going up while it pays.

    One thread comes first because it is safe to wait for: on a busy machine a second one can make a token a
    hundred times slower, each operation waiting for whoever is not running. A model for which even that first
    measurement exceeds the budget is a large one, and wants all cores.
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
