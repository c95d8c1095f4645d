"""Mixes: shares, temperature, the cap on epochs, and the annealing part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelstack.data.mix import MixRecipe, plan_mix
from modelstack.errors import UserError

SIZES = {"web": 1_000_000, "books": 100_000, "math": 10_000}


def test_without_weights_sources_are_in_proportion_to_their_size() -> None:
    plan = plan_mix(SIZES, MixRecipe(n_tokens=1_110_000))
    assert plan.epochs == pytest.approx({"web": 1.0, "books": 1.0, "math": 1.0})


def test_a_temperature_favours_small_sources() -> None:
    weights = plan_mix(SIZES, MixRecipe(n_tokens=10_000, temperature=5)).stable.weights
    roots = {name: size**0.2 for name, size in SIZES.items()}
    assert weights == pytest.approx({name: root / sum(roots.values()) for name, root in roots.items()})


def test_what_a_small_source_cannot_give_goes_to_the_others_by_their_weights() -> None:
    recipe = MixRecipe(n_tokens=400_000, weights={"web": 0.4, "books": 0.2, "math": 0.4}, max_epochs=4)
    plan = plan_mix(SIZES, recipe)
    assert plan.stable.tokens == pytest.approx({"web": 240_000, "books": 120_000, "math": 40_000})
    assert plan.epochs["math"] == pytest.approx(4)


def test_the_annealing_mix_counts_as_epochs_too() -> None:
    recipe = MixRecipe(
        n_tokens=500_000,
        anneal_share=0.1,
        anneal_weights={"web": 0, "books": 0.5, "math": 0.5},
        weights={"web": 0.5, "books": 0.25, "math": 0.25},
    )
    plan = plan_mix(SIZES, recipe)
    assert plan.anneal is not None
    assert plan.anneal.tokens == pytest.approx({"web": 0, "books": 25_000, "math": 25_000})
    assert plan.stable.tokens["math"] == pytest.approx(15_000)
    assert sum(plan.stable.tokens.values()) == pytest.approx(450_000)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (MixRecipe(n_tokens=10_000_000), r"give 4,440,000 in max_epochs=4"),
        (MixRecipe(n_tokens=10, weights={"web": 1}), "name each source"),
        (MixRecipe(n_tokens=10, weights={"web": 1, "books": -1, "math": 0}), "weight -1.0 of 'books'"),
        (MixRecipe(n_tokens=10, anneal_share=0.1), "without anneal_weights"),
    ],
)
def test_what_cannot_be_is_said(recipe: MixRecipe, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_mix(SIZES, recipe)


@given(
    sizes=st.lists(st.integers(1, 10**9), min_size=1, max_size=6),
    weights=st.lists(st.just(0.0) | st.floats(1e-3, 1), min_size=6, max_size=6),
    share=st.floats(0.01, 0.99),
)
def test_all_tokens_are_given_and_no_source_more_than_its_epochs(
    sizes: list[int], weights: list[float], share: float
) -> None:
    named = {f"s{i}": size for i, size in enumerate(sizes)}
    wanted = dict(zip(named, weights, strict=False))
    n_tokens = int(share * 4 * sum(size for name, size in named.items() if wanted[name] > 0))
    if n_tokens < 1:
        return
    plan = plan_mix(named, MixRecipe(n_tokens=n_tokens, weights=wanted))
    assert sum(plan.stable.tokens.values()) == pytest.approx(n_tokens)
    assert all(epochs <= 4 * (1 + 1e-9) for epochs in plan.epochs.values())
    assert all(plan.stable.tokens[name] == 0 for name, weight in wanted.items() if not weight)
    # Among sources that are not full, shares are as the weights.
    free = [name for name in named if wanted[name] > 0 and plan.epochs[name] < 4 * (1 - 1e-6)]
    ratios = [plan.stable.tokens[name] / wanted[name] for name in free]
    assert ratios == pytest.approx(ratios[:1] * len(ratios))
