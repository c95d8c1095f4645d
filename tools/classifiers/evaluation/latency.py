"""Latency of one prompt: wall time and CPU time of this thread, prompt by prompt, after a warm-up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

N_WARM_UP = 50
N_WORDS = 48
"""About 64 tokens of English: three words make four tokens."""


def timed(check: Callable[[str], object], prompts: Sequence[str]) -> list[tuple[float, float]]:
    """Return wall seconds and CPU seconds of this thread for each call."""
    for prompt in prompts[:N_WARM_UP]:
        check(prompt)
    times: list[tuple[float, float]] = []
    for prompt in prompts:
        wall, cpu = time.perf_counter(), time.thread_time()
        check(prompt)
        times.append((time.perf_counter() - wall, time.thread_time() - cpu))
    return times


def prompts_of(texts: Sequence[str], n: int, n_words: int = N_WORDS) -> list[str]:
    """Return `n` prompts of `n_words` words each, cut from the texts in order, repeated if necessary."""
    words = [word for text in texts for word in text.split()]
    if len(words) < n_words:
        raise ValueError(f"{len(words)} words: at least {n_words} are needed for one prompt")
    n_distinct = len(words) // n_words
    return [" ".join(words[(i % n_distinct) * n_words :][:n_words]) for i in range(n)]
