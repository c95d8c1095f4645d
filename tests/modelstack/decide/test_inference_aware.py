"""Sardana and Frankle's example to one percent, and the minima against a grid."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.decide.inference_aware import (
    FLOP_RATES,
    Demand,
    Rates,
    best_for_cost,
    cheapest_for_loss,
    tokens_for_cost,
)
from modelstack.decide.scaling_laws import BESIROGLU, HOFFMANN, HOFFMANN_PRINTED, LAWS, Allocation, ScalingLaw
from modelstack.errors import UserError

ANCHORS = [
    # law, quality of N, tokens served, N, D, FLOPs saved, share saved
    (HOFFMANN, 13e9, 2e12, 7.13e9, 1.30e12, 1.63e22, 0.163),
    (HOFFMANN_PRINTED, 13e9, 2e12, 8.02e9, None, None, 0.101),
    (BESIROGLU, 13e9, 2e12, 6.09e9, 0.74e12, 2.09e22, 0.290),
    (HOFFMANN, 30e9, 10e12, 13.95e9, None, None, 0.265),
    (BESIROGLU, 30e9, 10e12, 11.6e9, None, None, 0.427),
]


def loss_of(law: ScalingLaw, n_parameters: float) -> float:
    best = law.optimum_of_size(n_parameters)
    return law.loss(best.n_parameters, best.n_tokens)


@pytest.mark.parametrize(("law", "quality", "served", "n", "d", "saved", "share"), ANCHORS)
def test_published_savings_are_met_to_one_percent(
    law: ScalingLaw, quality: float, served: float, n: float, d: float | None, saved: float | None, share: float
) -> None:
    demand = Demand(output_tokens=served)
    large = law.optimum_of_size(quality)
    small = cheapest_for_loss(law, loss_of(law, quality), demand)
    before, after = (FLOP_RATES.total_cost(each, demand) for each in (large, small))
    assert small.n_parameters == pytest.approx(n, rel=0.01)
    assert 1 - after / before == pytest.approx(share, rel=0.01)
    if d is not None:
        assert small.n_tokens == pytest.approx(d, rel=0.01)
    if saved is not None:
        assert before - after == pytest.approx(saved, rel=0.01)


laws = st.sampled_from(list(LAWS.values()))
sizes = st.floats(6, 12).map(lambda power: 10**power)
demands = st.floats(6, 16).map(lambda power: 10**power)
ratios = st.floats(0.01, 100)


@settings(max_examples=60, deadline=None)
@given(laws, sizes, demands, ratios, ratios)
def test_no_size_reaches_the_loss_for_less(
    law: ScalingLaw, quality: float, served: float, prompt: float, output: float
) -> None:
    loss, demand = loss_of(law, quality), Demand(served, served / 3)
    rates = Rates(1.5, prompt, output, "coins")
    best = cheapest_for_loss(law, loss, demand, rates)
    least = rates.total_cost(best, demand)
    assert law.loss(best.n_parameters, best.n_tokens) == pytest.approx(loss)
    assert best.n_parameters <= quality * (1 + 1e-9)
    for factor in (0.7, 0.97, 1.03, 1.5):
        N = best.n_parameters * factor
        if law.smallest_size(loss) * (1 + 1e-9) < N:
            assert rates.total_cost(Allocation(N, law.tokens_for(loss, N)), demand) >= least * (1 - 1e-9)


@settings(max_examples=60, deadline=None)
@given(laws, sizes, demands, ratios)
def test_least_loss_for_a_cost_and_least_cost_for_a_loss_are_the_same_model(
    law: ScalingLaw, quality: float, served: float, output: float
) -> None:
    demand, rates = Demand(0, served), Rates(1, 1, output, "coins")
    loss = loss_of(law, quality)
    cheapest = cheapest_for_loss(law, loss, demand, rates)
    best = best_for_cost(law, rates.total_cost(cheapest, demand), demand, rates)
    assert best.n_parameters == pytest.approx(cheapest.n_parameters, rel=1e-4)
    assert law.loss(best.n_parameters, best.n_tokens) == pytest.approx(loss, rel=1e-8)


def test_without_demand_both_are_compute_optimal() -> None:
    best = best_for_cost(BESIROGLU, 1e21, Demand())
    assert best == BESIROGLU.optimum(1e21)
    loss = BESIROGLU.loss(best.n_parameters, best.n_tokens)
    assert cheapest_for_loss(BESIROGLU, loss, Demand()).n_parameters == pytest.approx(best.n_parameters)


def test_only_the_price_of_served_tokens_against_training_counts() -> None:
    loss = loss_of(HOFFMANN, 13e9)
    dear = cheapest_for_loss(HOFFMANN, loss, Demand(1e12, 1e11), Rates(2, 2, 40, "USD"))
    same = cheapest_for_loss(HOFFMANN, loss, Demand(0, 3e12))
    assert dear.n_parameters == pytest.approx(same.n_parameters)


def test_dear_outputs_make_a_smaller_model() -> None:
    loss, demand = loss_of(HOFFMANN, 13e9), Demand(1e12, 1e12)
    cheap, dear = (cheapest_for_loss(HOFFMANN, loss, demand, Rates(1, 1, output)) for output in (1, 40))
    assert dear.n_parameters < cheap.n_parameters and dear.n_tokens > cheap.n_tokens


def test_tokens_for_a_cost_spend_it_whole() -> None:
    demand, rates = Demand(1e10, 1e9), Rates(1e-3, 1e-3, 4e-2, "USD")
    D = tokens_for_cost(1e9, 1e18, demand, rates)
    assert rates.total_cost(Allocation(1e9, D), demand) == pytest.approx(1e18)


def test_a_budget_that_serving_eats_is_refused() -> None:
    with pytest.raises(UserError, match="nothing is left for training"):
        tokens_for_cost(1e9, 1e18, Demand(1e12))


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="prompt_tokens -1 must be at least 0"):
        Demand(-1)
    with pytest.raises(UserError, match="rate of output FLOPs 0 must be above 0"):
        Rates(output=0)
    with pytest.raises(UserError, match="budget of 0 FLOP"):
        best_for_cost(BESIROGLU, 0, Demand())
