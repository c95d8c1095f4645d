"""Expected results of k of n sampled replies as curves over k: pass@k, best of k, majority of k.

Each value is the expectation over all subsets of k of the n replies to a task. It is computed exactly by counting,
so one sampling of n replies gives the whole curve without noise from drawing subsets. pass@k: Chen et al., arXiv
2107.03374. A weighted vote depends on every member of a subset, so its expectation is estimated from drawn
subsets. Intervals are bootstraps over tasks, because replies of one task are not independent of each other.

Letters: n replies to a task, k of them.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from modelstack.inference.best_of import self_consistency
from modelstack.tokenizer.measures import ratio_interval

N_SUBSETS = 200
"""Number of subsets drawn for a weighted vote: the standard deviation is at most 0.035 for a task, less for the
mean."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The n replies to one task."""

    answers: tuple[str | None, ...]
    """Answer of each reply, with equal spelling for equal answers; None for a reply without an answer."""
    is_right: tuple[bool, ...]
    values: tuple[float, ...]
    """Value of each reply from a judge without the gold answer: mean log-probability, a reward model."""


@dataclass(frozen=True, slots=True)
class Point:
    """A share at k: the mean over tasks with its 95 % interval."""

    k: int
    value: float
    low: float
    high: float
    n_tasks: int


def pass_at_k(n: int, n_right: int, k: int) -> float:
    """Return the probability that k of n replies include a right one.

    Raises:
        ValueError: not 1 <= k <= n, or not 0 <= n_right <= n.
    """
    _check(n, k)
    if not 0 <= n_right <= n:
        raise ValueError(f"n_right is {n_right} of {n} replies; it must be between 0 and {n}")
    return 1 - math.comb(n - n_right, k) / math.comb(n, k)


def best_at_k(values: Sequence[float], is_right: Sequence[bool], k: int) -> float:
    """Return the probability that the best-valued of k replies is right; equal values win equally often.

    Raises:
        ValueError: the lists differ in length, or not 1 <= k <= n.
    """
    n = len(values)
    _check(n, k)
    right_of: dict[float, list[bool]] = {}
    for value, right in zip(values, is_right, strict=True):
        right_of.setdefault(value, []).append(right)
    total, n_below = 0.0, 0
    for value in sorted(right_of):
        several = right_of[value]
        n_up_to = n_below + len(several)
        chance = (math.comb(n_up_to, k) - math.comb(n_below, k)) / math.comb(n, k)
        total += chance * sum(several) / len(several)
        n_below = n_up_to
    return total


def majority_at_k(answers: Sequence[str | None], is_right: Sequence[bool], k: int) -> float:
    """Return the probability that the most frequent answer of k replies is right; tied answers win equally often.

    Replies without an answer do not vote; if none of the k has an answer, the result is not right.

    Raises:
        ValueError: the lists differ in length, not 1 <= k <= n, or equal answers are right and wrong.
    """
    n = len(answers)
    _check(n, k)
    judged = set(zip(answers, is_right, strict=True))
    known = Counter(answer for answer in answers if answer is not None)
    right = {answer for answer, is_so in judged if is_so and answer is not None}
    if twice := next((answer for answer in right if (answer, False) in judged), None):
        raise ValueError(f"answer {twice!r} is right in one reply and wrong in another; equal answers must agree")
    n_silent = n - known.total()
    ways = sum(_ways_to_win(answer, known, n_silent, k) for answer in right)
    return float(ways / math.comb(n, k))


def _ways_to_win(answer: str, counts: Counter[str], n_silent: int, k: int) -> float:
    """Return the number of subsets of k that an answer wins; a tie with t others counts 1 / (1 + t)."""
    total = 0.0
    others = [count for other, count in counts.items() if other != answer]
    for votes in range(1, min(counts[answer], k) + 1):
        # Subsets of the other answers in which none has more votes: {(size, answers with as many votes): ways}.
        ways = {(0, 0): 1}
        for count in others:
            ways = _with_answer(ways, count, votes, k - votes)
        for (size, n_tied), n_ways in ways.items():
            n_rest = math.comb(n_silent, k - votes - size)
            total += math.comb(counts[answer], votes) * n_ways * n_rest / (1 + n_tied)
    return total


def _with_answer(
    ways: dict[tuple[int, int], int], count: int, most_votes: int, most_size: int
) -> dict[tuple[int, int], int]:
    """Return the ways after adding an answer that `count` replies have."""
    found: dict[tuple[int, int], int] = {}
    for (size, n_tied), n_ways in ways.items():
        for votes in range(min(count, most_votes, most_size - size) + 1):
            key = (size + votes, n_tied + (votes == most_votes))
            found[key] = found.get(key, 0) + n_ways * math.comb(count, votes)
    return found


def weighted_vote_at_k(
    answers: Sequence[str | None],
    is_right: Sequence[bool],
    weights: Sequence[float],
    k: int,
    *,
    n_subsets: int = N_SUBSETS,
    seed: int = 0,
) -> float:
    """Return an estimate of the probability that the weighted vote of k replies is right.

    Raises:
        ValueError: the lists differ in length, not 1 <= k <= n, or a weight is missing.
    """
    n = len(answers)
    _check(n, k)
    draw = random.Random(seed)
    right = {answer for answer, is_so in zip(answers, is_right, strict=True) if is_so}
    n_won = 0
    for _ in range(n_subsets):
        chosen = draw.sample(range(n), k)
        vote = self_consistency([answers[i] for i in chosen], [weights[i] for i in chosen])
        n_won += vote.answer is not None and vote.answer in right
    return n_won / n_subsets


def curve(tasks: Sequence[Judged], ks: Sequence[int], at_k: Callable[[Judged, int], float]) -> list[Point]:
    """Return the mean over tasks at each k.

    Args:
        tasks: Tasks with at least max(ks) replies each.
        ks: Numbers of replies.
        at_k: A function of `CURVES`, or a custom one.

    Raises:
        ValueError: there is no task, or a task has too few replies.
    """
    if not tasks:
        raise ValueError("a curve needs at least one task")
    points: list[Point] = []
    for k in ks:
        values = np.array([at_k(task, k) for task in tasks])
        interval = ratio_interval(values, np.ones(len(values)))
        assert interval is not None  # there are tasks
        points.append(Point(k, interval.value, interval.low, interval.high, len(tasks)))
    return points


CURVES: dict[str, Callable[[Judged, int], float]] = {
    "pass@k": lambda task, k: pass_at_k(len(task.is_right), sum(task.is_right), k),
    "maj@k": lambda task, k: majority_at_k(task.answers, task.is_right, k),
    "weighted vote@k": lambda task, k: weighted_vote_at_k(
        task.answers, task.is_right, [math.exp(value) for value in task.values], k
    ),
    "best@k by log-probability": lambda task, k: best_at_k(task.values, task.is_right, k),
}
"""Curves by name: any reply right (a perfect judge), majority, weighted majority, the likeliest reply."""


def _check(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k is {k} of {n} replies; it must be between 1 and {n}")
