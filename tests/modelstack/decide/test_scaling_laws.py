"""The published laws against worked values, and the optimum against what it claims to be."""

import math
import re
import subprocess
import sys

import pytest

from modelstack.decide.scaling_laws import BESIROGLU, HOFFMANN, HOFFMANN_PRINTED, LAWS, ScalingLaw, find_law
from modelstack.errors import UserError

WORKED = [
    # law, C, N, D, D / N
    (BESIROGLU, 5.76e23, 72.2e9, 1.329e12, 18.4),
    (HOFFMANN_PRINTED, 5.76e23, 32.2e9, 2.98e12, 93),
    (HOFFMANN, 5.76e23, 40.3e9, 2.38e12, None),
    (BESIROGLU, 1e18, 80.5e6, 2.07e9, 25.7),
    (BESIROGLU, 1e15, 2.33e6, 71.4e6, 30.6),
]


@pytest.mark.parametrize(("law", "flops", "n", "d", "ratio"), WORKED)
def test_optima_are_the_worked_values_to_one_percent(
    law: ScalingLaw, flops: float, n: float, d: float, ratio: float | None
) -> None:
    found = law.optimum(flops)
    assert found.n_parameters == pytest.approx(n, rel=0.01)
    assert found.n_tokens == pytest.approx(d, rel=0.01)
    assert found.training_flops == pytest.approx(flops)
    if ratio is not None:
        assert found.tokens_per_parameter == pytest.approx(ratio, rel=0.01)


@pytest.mark.parametrize(("law", "a"), [(HOFFMANN_PRINTED, 0.452), (HOFFMANN, 0.457), (BESIROGLU, 0.513)])
def test_size_exponents_are_the_published_ones(law: ScalingLaw, a: float) -> None:
    assert law.size_exponent == pytest.approx(a, abs=0.0006)


@pytest.mark.parametrize("law", LAWS.values(), ids=lambda law: law.name)
@pytest.mark.parametrize("flops", [1e15, 1e20, 1e25])
def test_no_other_size_does_better_at_the_same_compute(law: ScalingLaw, flops: float) -> None:
    best = law.optimum(flops)
    least = law.loss(best.n_parameters, best.n_tokens)
    for factor in (0.5, 0.99, 1.01, 2):
        assert law.loss(best.n_parameters * factor, best.n_tokens / factor) > least


@pytest.mark.parametrize("law", LAWS.values(), ids=lambda law: law.name)
def test_the_three_ways_to_an_optimum_agree(law: ScalingLaw) -> None:
    best = law.optimum(1e21)
    loss = law.loss(best.n_parameters, best.n_tokens)
    for other in (law.optimum_for_loss(loss), law.optimum_of_size(best.n_parameters)):
        assert other.n_parameters == pytest.approx(best.n_parameters)
        assert other.n_tokens == pytest.approx(best.n_tokens)


def test_tokens_for_a_loss_reach_it() -> None:
    assert BESIROGLU.loss(7e9, BESIROGLU.tokens_for(2.1, 7e9)) == pytest.approx(2.1)


def test_a_loss_below_the_floor_is_refused_with_the_floor() -> None:
    with pytest.raises(UserError, match=r"loss 1\.8 .*never falls to E = 1\.8172"):
        BESIROGLU.optimum_for_loss(1.8)
    assert math.isinf(BESIROGLU.smallest_size(1.8))


def test_a_model_too_small_for_a_loss_is_told_the_size_needed() -> None:
    needed = BESIROGLU.smallest_size(2.5)
    with pytest.raises(UserError, match=re.escape(f"at least {needed:.3g} are needed")):
        BESIROGLU.tokens_for(2.5, 0.99 * needed)
    assert BESIROGLU.tokens_for(2.5, 1.01 * needed) > 0


@pytest.mark.parametrize("bad", [0, -1, float("nan")])
def test_sizes_must_be_positive(bad: float) -> None:
    with pytest.raises(UserError, match="must be above 0"):
        BESIROGLU.loss(bad, 1e9)
    with pytest.raises(UserError, match="must be above 0"):
        BESIROGLU.optimum(bad)


def test_an_unknown_law_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'hofmann' is not known; nearest: 'hoffmann'"):
        find_law("hofmann")


def test_one_more_law_can_be_chosen() -> None:
    own = BESIROGLU.model_copy(update={"name": "own"})
    assert find_law("own", own) is own


def test_laws_are_extrapolated_outside_of_the_sizes_they_saw() -> None:
    assert BESIROGLU.extrapolates(9e6) and BESIROGLU.extrapolates(70e9)
    assert not BESIROGLU.extrapolates(1e9)


def test_deciding_loads_no_torch() -> None:
    code = (
        "import sys; from modelstack.commands import decide; "
        "from modelstack.decide import planner, plan_page, isoflop; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'matplotlib', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
