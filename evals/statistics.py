"""Intervals, comparisons and calibration for reported figures.

Sources:
- Shares: Wilson (1927), recommended by Newcombe's survey (1998).
- Paired bootstrap: Efron and Tibshirani (1993, chapter 13).
- Means over a few seeds: Student (1908).
- Paired outcomes: McNemar (1947), exact form.
- Expected calibration error with equal-mass bins: Nixon et al. (2019).
- Brier score: Brier (1950).

The code is plain Python for at most some thousand cases. Only Student's quantiles need scipy.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from modelstack.student import half_width_95

Z_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""
N_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """Estimate with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """Return the estimate as text, for example `0.250 (0.201 to 0.306)`."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def wilson(n_right: int, n: int) -> Interval:
    """Return a share with its Wilson score interval; for n = 0 the interval is 0 to 1.

    Raises:
        ValueError: `n_right` is outside 0 to n.
    """
    if not 0 <= n_right <= n:
        raise ValueError(f"{n_right} right of {n}: the first number must be from 0 to the second")
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0)
    share, z2 = n_right / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # The bounds at 0 and n are exactly 0 and 1; this avoids rounding errors.
    low = 0.0 if n_right == 0 else max(0.0, centre - half)
    high = 1.0 if n_right == n else min(1.0, centre + half)
    return Interval(share, low, high, n)


def mean_interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Return a mean with its interval: Wilson's if all values are 0 or 1, else a percentile bootstrap."""
    n = len(values)
    if all(value in (0.0, 1.0) for value in values):
        return wilson(round(sum(values)), n)
    draw = random.Random(seed)
    means = sorted(math.fsum(draw.choices(values, k=n)) / n for _ in range(N_RESAMPLES // 5))
    return Interval(math.fsum(values) / n, _quantile(means, 0.025), _quantile(means, 0.975), n)


def student_interval(values: Sequence[float]) -> Interval:
    """Return a mean with Student's 95 % interval, for a few values; at three, the normal one is half as wide.

    Requires scipy, part of the extra `train`.

    Raises:
        ValueError: There are fewer than two values.
    """
    half = half_width_95(values)
    mean = statistics.fmean(values)
    return Interval(mean, mean - half, mean + half, len(values))


def interval_over_seeds(values_by_seed: Sequence[Sequence[float]]) -> Interval:
    """Return the mean of the seeds' means with Student's interval over seeds; for one seed, `mean_interval`.

    Trainings that differ only in their seed usually vary more than their cases suggest.
    """
    if len(values_by_seed) == 1:
        return mean_interval(values_by_seed[0])
    return student_interval([statistics.fmean(values) for values in values_by_seed])


def paired_difference(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Interval:
    """Return mean(second - first) with its paired bootstrap interval (percentile, `N_RESAMPLES` draws).

    Raises:
        ValueError: The sequences differ in length or are empty.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} values: both numbers must be equal and at least 1")
    differences = [b - a for a, b in zip(first, second, strict=True)]
    n, draw = len(differences), random.Random(seed)
    means = sorted(math.fsum(draw.choices(differences, k=n)) / n for _ in range(N_RESAMPLES))
    return Interval(math.fsum(differences) / n, _quantile(means, 0.025), _quantile(means, 0.975), n)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int, float]:
    """Return (only first right, only second right, two-sided exact p-value) over paired outcomes.

    Raises:
        ValueError: The sequences differ in length.
    """
    pairs = list(zip(first, second, strict=True))
    only_first = sum(a and not b for a, b in pairs)
    only_second = sum(b and not a for a, b in pairs)
    n = only_first + only_second
    if n == 0:
        return 0, 0, 1.0
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return only_first, only_second, min(1.0, 2 * tail / 2**n)


@dataclass(frozen=True, slots=True)
class Bin:
    """Bin of a reliability diagram."""

    mean_probability: float
    share_true: float
    n: int


def reliability(probabilities: Sequence[float], outcomes: Sequence[bool], *, n_bins: int = 15) -> list[Bin]:
    """Return equal-mass bins in order of probability; fewer if there are fewer values than bins.

    Raises:
        ValueError: The sequences differ in length.
    """
    pairs = sorted(zip(probabilities, outcomes, strict=True))
    # Equal probabilities may straddle a border, so each counts with their common share instead of its own
    # outcome.
    tied: dict[float, list[bool]] = {}
    for probability, outcome in pairs:
        tied.setdefault(probability, []).append(outcome)
    share_of = {probability: sum(known) / len(known) for probability, known in tied.items()}
    ordered = [probability for probability, _ in pairs]
    bins: list[Bin] = []
    for k in range(n_bins):
        part = ordered[k * len(ordered) // n_bins : (k + 1) * len(ordered) // n_bins]
        if part:
            share = math.fsum(share_of[p] for p in part) / len(part)
            bins.append(Bin(math.fsum(part) / len(part), share, len(part)))
    return bins


def expected_calibration_error(
    probabilities: Sequence[float], outcomes: Sequence[bool], *, n_bins: int = 15
) -> float:
    """Return the mean of |mean probability - share true| over equal-mass bins, weighted by size."""
    bins = reliability(probabilities, outcomes, n_bins=n_bins)
    n = sum(b.n for b in bins)
    return math.fsum(abs(b.mean_probability - b.share_true) * b.n for b in bins) / n if n else math.nan


def brier(probabilities: Sequence[float], outcomes: Sequence[bool]) -> float:
    """Return the mean squared difference between probability and outcome."""
    pairs = list(zip(probabilities, outcomes, strict=True))
    return math.fsum((p - outcome) ** 2 for p, outcome in pairs) / len(pairs) if pairs else math.nan


def threshold_at_false_positive_rate(benign_scores: Sequence[float], rate: float) -> float:
    """Return the lowest threshold that flags (score >= threshold) at most `rate` of the benign scores.

    Raises:
        ValueError: There are no scores, or the rate is outside 0 to 1.
    """
    if not benign_scores or not 0 <= rate <= 1:
        raise ValueError(
            f"{len(benign_scores)} benign scores at rate {rate}: give at least one score and a rate from 0 to 1"
        )
    ordered = sorted(benign_scores, reverse=True)
    n_allowed = math.floor(rate * len(ordered) + 1e-9)
    if n_allowed >= len(ordered):
        return ordered[-1]
    return math.nextafter(ordered[n_allowed], math.inf)


def area_under_roc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Return the share of (positive, negative) pairs in the right order; ties count a half (Mann-Whitney)."""
    if not positive or not negative:
        return math.nan
    ranked = sorted([(score, True) for score in positive] + [(score, False) for score in negative])
    rank_sum, start = 0.0, 0
    while start < len(ranked):
        stop = start
        while stop < len(ranked) and ranked[stop][0] == ranked[start][0]:
            stop += 1
        rank = (start + 1 + stop) / 2
        rank_sum += rank * sum(is_positive for _, is_positive in ranked[start:stop])
        start = stop
    n_pairs = len(positive) * len(negative)
    return (rank_sum - len(positive) * (len(positive) + 1) / 2) / n_pairs


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, max(0, round(share * (len(ordered) - 1))))]
