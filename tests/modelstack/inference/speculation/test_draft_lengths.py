"""The number of draft tokens is the one with the highest expected speed, zero included."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from modelstack.inference.speculation.draft_lengths import (
    COST_LIFE,
    FIRST_SLOPE,
    LEAST_GAIN,
    MAX_STEP,
    AcceptanceRates,
    StepCosts,
    draft_lengths,
)


def costs_of(*steps: tuple[int, float]) -> StepCosts:
    """Return the costs of some steps, each after the first step of its size, which is not counted."""
    costs = StepCosts()
    for n_tokens in {n_tokens for n_tokens, _ in steps}:
        costs.add(n_tokens, 500.0)
    for n_tokens, seconds in steps:
        costs.add(n_tokens, seconds)
    return costs


def falling(*rates: float) -> NDArray[np.float64]:
    return np.cumprod(rates, dtype=np.float64)


@given(
    st.lists(st.lists(st.floats(0.01, 0.99), max_size=4), min_size=1, max_size=3),
    st.lists(st.floats(0.1, 3.0), min_size=5, max_size=5),
    st.integers(0, 12),
)
def test_no_other_lengths_are_expected_to_be_faster(
    rates: list[list[float]], cost: list[float], most: int
) -> None:
    costs = costs_of(*zip((1, 2, 4, 8, 16), cost, strict=True))
    chances = [falling(*each) for each in rates]
    found = draft_lengths(chances, costs, most)

    def speed(lengths: tuple[int, ...]) -> float:
        n_tokens = len(rates) + sum(lengths)
        tokens = len(rates) + sum(float(each[:n].sum()) for each, n in zip(chances, lengths, strict=True))
        return tokens / float(costs.seconds(np.array([n_tokens]))[0])

    every = itertools.product(*(range(len(each) + 1) for each in rates))
    best = max(speed(lengths) for lengths in every if sum(lengths) <= most)
    assert sum(found) <= most
    least = speed((0,) * len(rates)) * LEAST_GAIN
    assert speed(tuple(found)) == pytest.approx(best if best >= least else speed((0,) * len(rates)))


def test_nothing_is_drafted_where_it_does_not_pay() -> None:
    certain = [falling(*[0.99] * 8)]
    assert draft_lengths(certain, costs_of((1, 1.0), (8, 8.0), (16, 16.0)), 30) == [0]
    assert draft_lengths(certain, costs_of((1, 1.0), (8, 1.2), (16, 1.6)), 30) == [8]
    assert draft_lengths([falling(0.05)], costs_of((1, 1.0), (2, 1.1)), 30) == [0]
    assert draft_lengths([falling(), falling(0.9)], StepCosts(), 30) == [0, 1]
    assert draft_lengths(certain, StepCosts(), 3) == [3]
    cheap = costs_of((1, 1.0), (8, 1.2), (16, 1.6))
    assert draft_lengths(certain, cheap, 30, drafting_s=5.0) == [8]
    assert draft_lengths(certain, cheap, 30, drafting_s=9.0) == [0]


def test_costs_are_averages_of_steps_of_about_the_same_size_and_grow_with_it() -> None:
    costs = costs_of((1, 2.0), (5, 3.0), (7, 5.0), (16, 3.0), (MAX_STEP + 1, 900.0), (0, 900.0))
    assert costs.seconds(np.array([1, 6, 16, 26])).tolist() == pytest.approx(
        [2.0, 4.0, 4.0, 4.0 + 20 * FIRST_SLOPE]
    )


def test_a_cost_that_was_not_measured_again_is_forgotten() -> None:
    costs = costs_of((1, 1.0), (8, 99.0))
    for _ in range(COST_LIFE):
        costs.add(1, 1.0)
    assert costs.seconds(np.array([8]))[0] == pytest.approx(99)
    costs.add(1, 1.0)
    assert costs.seconds(np.array([8]))[0] == pytest.approx(1 + 7 * FIRST_SLOPE)
    costs.add(8, 2.0)
    assert costs.seconds(np.array([8]))[0] == pytest.approx(2)


def test_acceptance_rates_follow_what_happened_by_the_length_of_the_match() -> None:
    n = np.arange(5, dtype=np.float64)
    rates = AcceptanceRates(n, n + 1)
    assert rates.probabilities(2, 3) == pytest.approx([2 / 3, 2 / 3 * 3 / 4, 2 / 3 * 3 / 4 * 4 / 5])
    for _ in range(500):
        rates.add(2, n_accepted=1, n_tried=3)  # the token after a match of 2 is right, after one of 3 wrong
    first, second, third = rates.probabilities(2, 3)
    assert first > 0.99 and second < 0.01
    assert third == pytest.approx(second * 4 / 5)
    for _ in range(500):
        rates.add(3, n_accepted=2, n_tried=2)
    assert rates.probabilities(3, 2) == pytest.approx([1, 1], abs=0.01)
