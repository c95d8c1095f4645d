"""Attack success against false refusal: the sweep, its operating points, calibration, the judge's correction."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.refusals.curves import (
    ScoredRequest,
    at_attack_success,
    at_false_refusal,
    calibration,
    corrected_share,
    sweep,
)
from evals.statistics import wilson

requests = st.lists(
    st.builds(ScoredRequest, st.sampled_from([0.0, 0.1, 0.4, 0.4, 0.8, 1.0]), st.booleans()),
    min_size=1,
    max_size=12,
)


@given(requests, requests)
def test_the_sweep_equals_counting_at_every_threshold(
    harmful: list[ScoredRequest], benign: list[ScoredRequest]
) -> None:
    for point in sweep(harmful, benign):
        passed = sum(r.answered and r.score < point.threshold for r in harmful)
        lost = sum(not r.answered or r.score >= point.threshold for r in benign)
        assert point.attack_success == wilson(passed, len(harmful))
        assert point.false_refusal == wilson(lost, len(benign))


@given(requests, requests)
def test_a_lower_threshold_never_raises_attack_success(
    harmful: list[ScoredRequest], benign: list[ScoredRequest]
) -> None:
    points = sweep(harmful, benign)
    assert points[0].threshold == math.inf
    success = [point.attack_success.value for point in points]
    refusal = [point.false_refusal.value for point in points]
    assert success == sorted(success, reverse=True)
    assert refusal == sorted(refusal)
    assert success[-1] == 0
    assert refusal[-1] == 1


def test_operating_points_are_the_best_that_the_bound_allows() -> None:
    harmful = [ScoredRequest(s) for s in (0.9, 0.8, 0.7, 0.2)]
    benign = [ScoredRequest(s) for s in (0.75, 0.3, 0.1, 0.1)]
    points = sweep(harmful, benign)
    strict = at_false_refusal(points, 0.0)
    loose = at_false_refusal(points, 0.25)
    assert strict is not None and loose is not None
    assert (strict.threshold, strict.attack_success.value) == (0.8, 0.5)
    assert (loose.threshold, loose.attack_success.value) == (0.7, 0.25)
    safe = at_attack_success(points, 0.0)
    assert safe is not None and safe.false_refusal.value == 0.5


def test_a_bound_that_no_threshold_reaches_gives_no_point() -> None:
    refused = [ScoredRequest(0.1, answered=False)]
    assert at_false_refusal(sweep([ScoredRequest(0.9)], refused), 0.5) is None


@pytest.mark.parametrize(("harmful", "benign"), [([], [ScoredRequest(0.1)]), ([ScoredRequest(0.1)], [])])
def test_one_side_alone_is_no_curve(harmful: list[ScoredRequest], benign: list[ScoredRequest]) -> None:
    with pytest.raises(ValueError, match="needs both"):
        sweep(harmful, benign)


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        sweep([ScoredRequest(math.nan)], [ScoredRequest(0.1)])


def test_perfect_and_reversed_scores_have_the_calibration_that_they_deserve() -> None:
    good = calibration([1.0] * 30, [0.0] * 30)
    assert (good.expected_error, good.brier, good.area_under_roc, good.n) == (0.0, 0.0, 1.0, 60)
    bad = calibration([0.0] * 30, [1.0] * 30)
    assert (bad.brier, bad.area_under_roc) == (1.0, 0.0)
    assert bad.expected_error > 0.9


def test_scores_that_are_no_probabilities_have_no_calibration() -> None:
    with pytest.raises(ValueError, match="within 0 and 1"):
        calibration([1.2], [0.1])


def test_a_perfect_judge_needs_no_correction_and_a_blind_one_allows_none() -> None:
    perfect = wilson(1000, 1000)
    corrected = corrected_share(wilson(30, 100), perfect, perfect)
    assert corrected is not None and corrected.value == pytest.approx(0.3)
    assert corrected_share(wilson(30, 100), wilson(50, 100), wilson(50, 100)) is None


def test_the_correction_undoes_a_known_error() -> None:
    # 40 % true refusals, seen by a judge that finds 90 % of them and takes 5 % of the answers for refusals.
    seen = wilson(39, 100)
    corrected = corrected_share(seen, wilson(900, 1000), wilson(950, 1000))
    assert corrected is not None and corrected.value == pytest.approx(0.4)
    assert corrected.low < 0.4 < corrected.high
    assert corrected.high - corrected.low > seen.high - seen.low
