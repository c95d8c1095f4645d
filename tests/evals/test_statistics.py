"""Intervals, tests and calibration against scipy and scikit-learn."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss, roc_auc_score

from evals.statistics import (
    area_under_roc,
    brier,
    expected_calibration_error,
    interval_over_seeds,
    mcnemar,
    mean_interval,
    paired_difference,
    reliability,
    student_interval,
    threshold_at_false_positive_rate,
    wilson,
)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts: tuple[int, int]) -> None:
    n_right, n = counts
    theirs = binomtest(n_right, n).proportion_ci(0.95, method="wilson")
    ours = wilson(n_right, n)
    assert (ours.value, ours.n) == (n_right / n, n)
    assert ours.low == pytest.approx(theirs.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.high, abs=1e-12)


def test_wilson_of_nothing_says_nothing() -> None:
    interval = wilson(0, 0)
    assert math.isnan(interval.value)
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_wilson_refuses_more_right_than_there_are() -> None:
    with pytest.raises(ValueError, match="5 right of 4"):
        wilson(5, 4)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_mcnemar_is_an_exact_binomial_test_of_the_discordant_pairs(pairs: list[tuple[bool, bool]]) -> None:
    only_first, only_second, p = mcnemar([a for a, _ in pairs], [b for _, b in pairs])
    assert only_first == sum(a and not b for a, b in pairs)
    assert only_second == sum(b and not a for a, b in pairs)
    n = only_first + only_second
    assert p == pytest.approx(binomtest(only_first, n).pvalue if n else 1.0)


@given(
    st.lists(st.floats(0, 1).map(lambda x: round(x, 2)), min_size=1, max_size=40),
    st.lists(st.floats(0, 1).map(lambda x: round(x, 2)), min_size=1, max_size=40),
)
def test_the_area_under_the_curve_is_sklearns(positive: list[float], negative: list[float]) -> None:
    outcomes = [True] * len(positive) + [False] * len(negative)
    assert area_under_roc(positive, negative) == pytest.approx(roc_auc_score(outcomes, positive + negative))


def test_brier_is_sklearns() -> None:
    draw = random.Random(3)
    probabilities = [draw.random() for _ in range(200)]
    outcomes = [draw.random() < p for p in probabilities]
    assert brier(probabilities, outcomes) == pytest.approx(brier_score_loss(outcomes, probabilities))


def test_calibration_error_is_small_for_honest_probabilities_and_the_offset_for_shifted_ones() -> None:
    draw = random.Random(5)
    probabilities = [draw.random() for _ in range(20_000)]
    outcomes = [draw.random() < p for p in probabilities]
    assert expected_calibration_error(probabilities, outcomes) < 0.02
    certain = [0.3] * 1_000
    assert expected_calibration_error(certain, [False] * 1_000) == pytest.approx(0.3)


def test_equal_probabilities_share_their_outcomes_whatever_their_order() -> None:
    assert expected_calibration_error([0.5] * 100, [True] * 50 + [False] * 50) == pytest.approx(0.0)


def test_bins_hold_equal_shares_of_all_values() -> None:
    draw = random.Random(7)
    probabilities = [draw.random() ** 3 for _ in range(150)]
    bins = reliability(probabilities, [False] * 150, n_bins=15)
    assert [b.n for b in bins] == [10] * 15
    assert [b.mean_probability for b in bins] == sorted(b.mean_probability for b in bins)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300), st.sampled_from([0.0, 0.005, 0.01, 0.05, 0.5, 1.0]))
def test_a_threshold_flags_no_more_than_its_rate_and_a_lower_one_would(scores: list[float], rate: float) -> None:
    threshold = threshold_at_false_positive_rate(scores, rate)
    n_allowed = math.floor(rate * len(scores) + 1e-9)
    assert sum(score >= threshold for score in scores) <= n_allowed
    below = [score for score in scores if score < threshold]
    if below:
        assert sum(score >= max(below) for score in scores) > n_allowed


def test_the_interval_of_a_mean_covers_the_truth_about_95_times_in_100() -> None:
    draw = np.random.default_rng(11)
    covered = 0
    for seed in range(100):
        interval = mean_interval(draw.beta(2, 3, size=40).tolist(), seed=seed)
        covered += interval.low <= 0.4 <= interval.high
    assert 88 <= covered <= 100


def test_a_paired_difference_is_narrower_than_the_spread_of_its_sides() -> None:
    draw = random.Random(13)
    first = [draw.random() for _ in range(60)]
    second = [x + 0.05 for x in first]
    interval = paired_difference(first, second)
    assert interval.value == pytest.approx(0.05)
    assert (interval.low, interval.high) == (pytest.approx(0.05), pytest.approx(0.05))
    with pytest.raises(ValueError, match="2 and 1 values"):
        paired_difference([1.0, 0.0], [1.0])


def test_the_interval_of_few_values_is_students() -> None:
    interval = student_interval([1.0, 2.0, 3.0])
    assert interval.value == 2.0
    # t(0.975, 2) = 4.3027 of any table, standard error 1 / sqrt(3)
    assert interval.high - interval.value == pytest.approx(4.3027 / 3**0.5, abs=1e-3)
    with pytest.raises(ValueError, match="two or more"):
        student_interval([1.0])


def test_an_interval_over_seeds_is_of_their_means() -> None:
    assert interval_over_seeds([[0.0, 1.0], [1.0, 3.0], [2.0, 4.0]]) == student_interval([0.5, 2.0, 3.0])
    assert interval_over_seeds([[0.0, 1.0, 1.0]]) == wilson(2, 3)
