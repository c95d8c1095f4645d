"""Scaling laws fitted to your own runs: parametric fit, parabolas over IsoFLOP curves, and their uncertainty.

Parametric (Hoffmann et al. 2022, approach 3): log L = LSE(a - alpha log N, b - beta log D, e) with A = exp a, B =
exp b, E = exp e. The objective is the sum of Huber losses of the log residuals, delta 1e-3, minimised by L-BFGS
from many starts. The sum and tight tolerances matter: Besiroglu et al. 2024 attribute the printed constants to a
mean, which made L-BFGS stop early.

Parabolas (approach 2): at each compute budget the loss is quadratic in log N near its minimum. The slopes of the
minima against log C are the exponents of N* ~ C^a and D* ~ C^b.

Runs may come from any source: `read_runs` reads JSON lines. numpy and scipy come with the extra `train`.

Letters: N parameters, D tokens, C FLOPs, R runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from modelstack.decide.scaling_laws import FLOPS_PER_PARAMETER_AND_TOKEN, ScalingLaw
from modelstack.errors import UserError
from modelstack.files import json_lines

if TYPE_CHECKING:
    import numpy as np

MAX_LOG_CONSTANT = 700.0
"""Largest logarithm of a constant that a float holds, about."""
HUBER_DELTA = 1e-3
N_STARTS = 60
N_RESTARTS = 2
"""Random starts of each bootstrap fit, in addition to the solution of the whole sample."""
CONSTANTS = ("E", "A", "B", "alpha", "beta")
SAME_BUDGET = 1.25
"""Factor in compute below which runs lie on the same IsoFLOP curve; budgets must be further apart."""
OWN = "own"


class Run(BaseModel, frozen=True):
    """A finished training run; other fields of its record are ignored."""

    n_parameters: float = Field(gt=0)
    n_tokens: float = Field(gt=0)
    loss: float = Field(gt=0)
    """Nats per token on held-out text."""

    @property
    def flops(self) -> float:
        """Training compute, 6 N D."""
        return FLOPS_PER_PARAMETER_AND_TOKEN * self.n_parameters * self.n_tokens


class Interval(BaseModel, frozen=True):
    """An estimate with its bootstrap percentiles."""

    value: float
    low: float
    high: float


class LawFit(BaseModel, frozen=True):
    """A fitted law with uncertainty."""

    law: ScalingLaw
    objective: float
    """Sum of Huber losses of the log residuals."""
    intervals: dict[str, Interval]
    """95 % intervals of each constant and of `size_exponent`; empty without a bootstrap."""


class Vertex(BaseModel, frozen=True):
    """Minimum of one IsoFLOP curve."""

    flops: float
    n_parameters: float
    n_tokens: float
    loss: float
    curvature: float
    """Second derivative of the loss over log N; positive."""


class ParabolaFit(BaseModel, frozen=True):
    """Minima of IsoFLOP curves, and the exponents fitted to them."""

    vertices: tuple[Vertex, ...]
    size_exponent: Interval
    """Exponent a of N* ~ C^a."""
    data_exponent: Interval
    """Exponent b of D* ~ C^b."""


def read_runs(file: Path) -> list[Run]:
    """Return the runs of a JSON lines file with n_parameters, n_tokens and loss.

    Raises:
        UserError: A line is not such a record.
    """
    runs = []
    for number, line in enumerate(json_lines(file), 1):
        if not line.strip():
            continue
        try:
            runs.append(Run.model_validate(json.loads(line)))
        except ValueError as error:  # no JSON, no UTF-8, or pydantic's
            raise UserError(
                f"{file} line {number} is not a run: give JSON with n_parameters, n_tokens and loss above 0; "
                f"{str(error).splitlines()[0]}"
            ) from error
    return runs


def fit_law(runs: Sequence[Run], *, n_bootstrap: int = 0, seed: int = 0, name: str = OWN) -> LawFit:
    """Fit E, A, B, alpha and beta.

    Args:
        runs: At least six runs, with at least three sizes and three numbers of tokens.
        n_bootstrap: Number of bootstrap samples for the intervals; 0: no intervals.
        seed: Seed of the starts and of the bootstrap.
        name: Name of the law.

    Raises:
        UserError: There are too few different runs for five constants, or their loss does not fall with size and
            tokens.
    """
    import numpy as np

    _check_enough(runs)
    table_R3 = np.log([[run.n_parameters, run.n_tokens, run.loss] for run in runs])
    random = np.random.default_rng(seed)
    best, objective = _minimise(table_R3, _starts(random, N_STARTS))
    law = _law(best, len(runs), name)
    samples = []
    for _ in range(n_bootstrap):
        chosen = table_R3[random.integers(0, len(runs), len(runs))]
        samples.append(_minimise(chosen, [best, *_starts(random, N_RESTARTS)])[0])
    return LawFit(law=law, objective=objective, intervals=_intervals(law, samples))


def fit_parabolas(runs: Sequence[Run], *, n_bootstrap: int = 0, seed: int = 0) -> ParabolaFit:
    """Fit a parabola over log N at each compute budget, and lines through their minima.

    The bootstrap resamples the residuals of each curve. Without it, or with three sizes per curve, the intervals
    have zero width. The intervals ignore that a wide curve is not a parabola; keep sizes within a factor of 3 of
    the best one.

    Raises:
        UserError: There are fewer than two budgets, or a curve has too few sizes or no minimum.
    """
    import numpy as np

    curves = isoflop_curves(runs)
    if len(curves) < 2:
        raise UserError(f"{len(runs)} runs lie on {len(curves)} IsoFLOP curve: exponents need at least 2 budgets")
    fits = [_parabola(curve) for curve in curves]
    vertices = tuple(vertex for vertex, _, _ in fits)
    exponents = _slopes(vertices)
    random = np.random.default_rng(seed)
    samples = [exponents]
    for _ in range(n_bootstrap):
        drawn = []
        for curve, (_, fitted, residuals) in zip(curves, fits, strict=True):
            # A parabola takes three degrees of freedom from the residuals.
            wide = residuals * math.sqrt(len(curve) / max(1, len(curve) - 3))
            noise = random.choice(wide, len(curve))
            resampled = [
                run.model_copy(update={"loss": float(value)})
                for run, value in zip(curve, fitted + noise, strict=True)
            ]
            drawn.append(_parabola(resampled)[0])
        samples.append(_slopes(drawn))
    low, high = np.percentile(np.array(samples), (2.5, 97.5), axis=0)
    size, data = (
        Interval(value=value, low=float(least), high=float(most))
        for value, least, most in zip(exponents, low, high, strict=True)
    )
    return ParabolaFit(vertices=vertices, size_exponent=size, data_exponent=data)


def isoflop_curves(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs grouped by compute budget in ascending order, each curve sorted by size."""
    curves: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: run.flops):
        if curves and run.flops <= SAME_BUDGET * curves[-1][0].flops:
            curves[-1].append(run)
        else:
            curves.append([run])
    return [sorted(curve, key=lambda run: run.n_parameters) for curve in curves]


def _parabola(curve: Sequence[Run]) -> tuple[Vertex, np.ndarray, np.ndarray]:
    """Return the minimum, the fitted losses and their residuals."""
    import numpy as np

    flops = math.exp(sum(math.log(run.flops) for run in curve) / len(curve))
    if len({run.n_parameters for run in curve}) < 3:
        raise UserError(f"the IsoFLOP curve at {flops:.3g} FLOPs has fewer than 3 sizes; a parabola needs 3")
    log_n = np.log([run.n_parameters for run in curve])
    losses = np.array([run.loss for run in curve])
    centre = log_n.mean()
    c2, c1, c0 = np.polyfit(log_n - centre, losses, 2)
    if c2 <= 0:
        raise UserError(
            f"the IsoFLOP curve at {flops:.3g} FLOPs has no minimum; train smaller and larger models there"
        )
    place = float(-c1 / (2 * c2))
    n_parameters = math.exp(centre + place)
    fitted = np.polyval((c2, c1, c0), log_n - centre)
    vertex = Vertex(
        flops=flops,
        n_parameters=n_parameters,
        n_tokens=flops / (FLOPS_PER_PARAMETER_AND_TOKEN * n_parameters),
        loss=float(c0 - c1 * c1 / (4 * c2)),
        curvature=float(2 * c2),
    )
    return vertex, fitted, losses - fitted


def _slopes(vertices: Sequence[Vertex]) -> tuple[float, float]:
    import numpy as np

    log_c = np.log([vertex.flops for vertex in vertices])
    size = np.polyfit(log_c, np.log([vertex.n_parameters for vertex in vertices]), 1)[0]
    data = np.polyfit(log_c, np.log([vertex.n_tokens for vertex in vertices]), 1)[0]
    return float(size), float(data)


def _starts(random: np.random.Generator, n: int) -> list[np.ndarray]:
    """Return starts (a, b, e, alpha, beta) over the ranges of Hoffmann's grid, appendix D.3."""
    low, high = (0, 0, -1, 0.05, 0.05), (15, 15, 1, 1, 1)
    return list(random.uniform(low, high, (n, 5)))


def _minimise(table_R3: np.ndarray, starts: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    from scipy.optimize import minimize

    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-15, "gtol": 1e-10}
    fits = [
        minimize(_objective, start, args=(table_R3,), jac=True, method="L-BFGS-B", options=options)
        for start in starts
    ]
    # A fit whose constants exceed the range of floats describes no law; few or noisy runs can lead there.
    finite = [fit for fit in fits if max(abs(fit.x[:3])) < MAX_LOG_CONSTANT]
    if not finite:
        raise UserError("the runs determine no scaling law: add sizes or budgets, or train longer")
    best = min(finite, key=lambda fit: float(fit.fun))
    return best.x, float(best.fun)


def _objective(theta: np.ndarray, table_R3: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the sum of Huber losses and its gradient in (a, b, e, alpha, beta)."""
    import numpy as np

    a, b, e, alpha, beta = theta
    log_n, log_d, log_loss = table_R3.T
    terms_3R = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
    top = terms_3R.max(axis=0)
    shares_3R = np.exp(terms_3R - top)
    total = shares_3R.sum(axis=0)
    shares_3R /= total
    residual = top + np.log(total) - log_loss
    clipped = np.clip(residual, -HUBER_DELTA, HUBER_DELTA)
    value = (clipped * (residual - clipped / 2)).sum()
    by_a, by_b, by_e = shares_3R * clipped
    return float(value), np.array(
        [by_a.sum(), by_b.sum(), by_e.sum(), -(by_a * log_n).sum(), -(by_b * log_d).sum()]
    )


def _law(theta: np.ndarray, n_runs: int, name: str) -> ScalingLaw:
    constants = _constants(theta)
    alpha, beta = constants["alpha"], constants["beta"]
    if min(alpha, beta) <= 0:
        raise UserError(
            f"{n_runs} runs give exponents alpha {alpha:.3g} and beta {beta:.3g}; both must be above 0, because "
            "loss falls with size and with tokens: train longer runs, of sizes that differ more"
        )
    return ScalingLaw(name=name, **constants, source=f"fitted to {n_runs} runs of one's own")


def _constants(theta: np.ndarray) -> dict[str, float]:
    a, b, e, alpha, beta = map(float, theta)
    return {"E": math.exp(e), "A": math.exp(a), "B": math.exp(b), "alpha": alpha, "beta": beta}


def _intervals(law: ScalingLaw, samples: Sequence[np.ndarray]) -> dict[str, Interval]:
    import numpy as np

    if not samples:
        return {}
    found = [_constants(theta) for theta in samples]
    columns = {name: [each[name] for each in found] for name in CONSTANTS}
    columns["size_exponent"] = [each["beta"] / (each["alpha"] + each["beta"]) for each in found]
    intervals = {}
    for name, values in columns.items():
        low, high = np.percentile(values, (2.5, 97.5))
        intervals[name] = Interval(value=getattr(law, name), low=float(low), high=float(high))
    return intervals


def _check_enough(runs: Sequence[Run]) -> None:
    sizes, tokens = {run.n_parameters for run in runs}, {run.n_tokens for run in runs}
    if len(runs) < 6 or len(sizes) < 3 or len(tokens) < 3:
        raise UserError(
            f"{len(runs)} runs of {len(sizes)} sizes and {len(tokens)} numbers of tokens do not determine five "
            f"constants; give at least 6 runs of 3 sizes and 3 numbers of tokens"
        )
