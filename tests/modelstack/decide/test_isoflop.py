"""Fits of synthetic runs give back the law that made them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from modelstack.decide.isoflop import Run, _law, _objective, fit_law, fit_parabolas, isoflop_curves, read_runs
from modelstack.decide.scaling_laws import BESIROGLU, HOFFMANN, ScalingLaw
from modelstack.errors import UserError

BUDGETS = (1e18, 1e19, 1e20, 1e21)


def curves(law: ScalingLaw, noise: float = 0.0, seed: int = 0, reach: float = 4, n_sizes: int = 9) -> list[Run]:
    """Return runs around each budget's optimum, with log-normal noise on the loss."""
    random = np.random.default_rng(seed)
    runs = []
    for flops in BUDGETS:
        for factor in np.geomspace(1 / reach, reach, n_sizes):
            N = law.optimum(flops).n_parameters * factor
            D = flops / (6 * N)
            runs.append(Run(n_parameters=N, n_tokens=D, loss=law.loss(N, D) * np.exp(noise * random.normal())))
    return runs


@pytest.mark.parametrize("law", [BESIROGLU, HOFFMANN], ids=lambda law: law.name)
def test_known_exponents_come_back_within_two_percent(law: ScalingLaw) -> None:
    fitted = fit_law(curves(law)).law
    assert fitted.alpha == pytest.approx(law.alpha, rel=0.02)
    assert fitted.beta == pytest.approx(law.beta, rel=0.02)
    assert fitted.size_exponent == pytest.approx(law.size_exponent, rel=0.02)
    assert pytest.approx(law.E, rel=0.02) == fitted.E


def test_an_outlier_hardly_moves_the_fit() -> None:
    runs = curves(BESIROGLU)
    spoilt = runs[11].model_copy(update={"loss": 2 * runs[11].loss})
    fitted = fit_law([*runs[:11], spoilt, *runs[12:]]).law
    assert fitted.size_exponent == pytest.approx(BESIROGLU.size_exponent, rel=0.02)


def test_bootstrap_intervals_hold_the_truth() -> None:
    fit = fit_law(curves(BESIROGLU, noise=2e-3, seed=1), n_bootstrap=20)
    interval = fit.intervals["size_exponent"]
    assert interval.low < interval.high
    assert interval.low - 0.01 < BESIROGLU.size_exponent < interval.high + 0.01
    assert set(fit.intervals) == {"E", "A", "B", "alpha", "beta", "size_exponent"}


def test_the_same_seed_gives_the_same_fit() -> None:
    runs = curves(HOFFMANN, noise=1e-3, n_sizes=4)
    assert fit_law(runs, n_bootstrap=2, seed=3) == fit_law(runs, n_bootstrap=2, seed=3)


def test_the_gradient_is_that_of_the_objective() -> None:
    table = np.log([[run.n_parameters, run.n_tokens, run.loss] for run in curves(BESIROGLU, noise=1e-3)])
    theta = np.array([6.2, 7.6, 0.6, 0.34, 0.36])
    _, gradient = _objective(theta, table)
    for k in range(5):
        step = np.zeros(5)
        step[k] = 1e-6
        slope = (_objective(theta + step, table)[0] - _objective(theta - step, table)[0]) / 2e-6
        assert gradient[k] == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_parabolas_give_the_exponents_back_within_two_percent() -> None:
    fit = fit_parabolas(curves(BESIROGLU, reach=2))
    assert fit.size_exponent.value == pytest.approx(BESIROGLU.size_exponent, rel=0.02)
    assert fit.data_exponent.value == pytest.approx(1 - BESIROGLU.size_exponent, rel=0.02)
    for vertex, flops in zip(fit.vertices, BUDGETS, strict=True):
        best = BESIROGLU.optimum(flops)
        assert vertex.flops == pytest.approx(flops)
        assert vertex.n_parameters == pytest.approx(best.n_parameters, rel=0.05)
        assert vertex.loss == pytest.approx(BESIROGLU.loss(best.n_parameters, best.n_tokens), rel=1e-3)


def test_parabolas_of_noisy_runs_say_how_sure_they_are() -> None:
    fit = fit_parabolas(curves(BESIROGLU, noise=1e-3, seed=2, reach=3), n_bootstrap=200)
    assert fit.size_exponent.low < fit.size_exponent.value < fit.size_exponent.high
    assert fit.size_exponent.high - fit.size_exponent.low < 0.1


def test_runs_of_one_budget_lie_on_one_curve() -> None:
    found = isoflop_curves(curves(BESIROGLU))
    assert [len(curve) for curve in found] == [9] * 4
    assert all(
        curve == sorted(curve, key=lambda run: run.n_parameters) and curve[0].flops == pytest.approx(flops)
        for curve, flops in zip(found, BUDGETS, strict=True)
    )


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(UserError, match="4 runs of 4 sizes"):
        fit_law(curves(BESIROGLU)[:4])
    with pytest.raises(UserError, match="at least 2 budgets"):
        fit_parabolas(curves(BESIROGLU)[:9])
    with pytest.raises(UserError, match="fewer than 3 sizes"):
        fit_parabolas(curves(BESIROGLU, n_sizes=2))


def test_a_curve_without_a_minimum_asks_for_other_sizes() -> None:
    falling = [
        Run(n_parameters=N, n_tokens=flops / (6 * N), loss=4 - 0.1 * np.log(N / 1e6) ** 2)
        for flops in (1e18, 1e19)
        for N in (2e6, 4e6, 8e6)
    ]
    with pytest.raises(UserError, match="has no minimum; train smaller and larger"):
        fit_parabolas(falling)


def test_constants_by_which_loss_rises_with_size_are_no_law() -> None:
    fitted = np.array([math.log(400), math.log(400), math.log(1.7), -0.1, 0.3])
    with pytest.raises(UserError, match=r"9 runs give exponents alpha -0\.1 and beta 0\.3; both must be above 0"):
        _law(fitted, 9, "own")


def test_runs_are_read_from_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text('{"n_parameters": 1e6, "n_tokens": 2e7, "loss": 4.5, "seed": 1}\n\n', encoding="utf-8")
    assert read_runs(file) == [Run(n_parameters=1e6, n_tokens=2e7, loss=4.5)]


@pytest.mark.parametrize("line", ["nonsense", json.dumps({"n_parameters": 1e6, "n_tokens": 2e7}), "[1]"])
def test_a_line_that_is_no_run_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text('{"n_parameters": 1e6, "n_tokens": 2e7, "loss": 4.5}\n' + line, encoding="utf-8")
    with pytest.raises(UserError, match=r"runs\.jsonl line 2 is not a run"):
        read_runs(file)
