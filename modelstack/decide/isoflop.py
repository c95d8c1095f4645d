"""Scaling laws of one's own runs: the parametric fit, parabolas over IsoFLOP curves, and their uncertainty.

Parametric (Hoffmann et al. 2022, approach 3): log L = LSE(a - alpha log N, b - beta log D, e) with A = exp a,
B = exp b, E = exp e; the sum of Huber losses of the log residuals, delta 1e-3, by L-BFGS from many starts. The
sum, and tight tolerances: Besiroglu et al. 2024 trace the printed constants to a mean that let L-BFGS stop early.

Parabolas (approach 2): at each compute budget the loss is quadratic in log N near its minimum; the slope of the
minima against log C are the exponents of N* ~ C^a and D* ~ C^b.

Runs may come from anywhere: `read_runs` takes JSON lines. numpy and scipy come with the extra `train`.

Letters: N parameters, D tokens, C FLOPs, R runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, ValidationError

from modelstack.decide.scaling_laws import FLOPS_PER_PARAMETER_AND_TOKEN, ScalingLaw
from modelstack.errors import UserError

if TYPE_CHECKING:
    import numpy as np

HUBER_DELTA = 1e-3
N_STARTS = 60
N_RESTARTS = 2
"""Starts beside the whole sample's solution in each bootstrap fit."""
CONSTANTS = ("E", "A", "B", "alpha", "beta")
SAME_BUDGET = 1.25
"""Runs whose compute differs by less than this factor lie on one IsoFLOP curve; budgets are further apart."""
OWN = "own"


class Run(BaseModel, frozen=True):
    """One finished training run; what else its record holds is not looked at."""

    n_parameters: float = Field(gt=0)
    n_tokens: float = Field(gt=0)
    loss: float = Field(gt=0)
    """Nats per token on held-out text."""

    @property
    def flops(self) -> float:
        """Return 6 N D."""
        return FLOPS_PER_PARAMETER_AND_TOKEN * self.n_parameters * self.n_tokens


class Interval(BaseModel, frozen=True):
    """An estimate and its bootstrap percentiles."""

    value: float
    low: float
    high: float


class LawFit(BaseModel, frozen=True):
    """A fitted law."""

    law: ScalingLaw
    objective: float
    """Sum of Huber losses of the log residuals."""
    intervals: dict[str, Interval]
    """95 % of each constant and of `size_exponent`; empty without a bootstrap."""


class Vertex(BaseModel, frozen=True):
    """The minimum of one IsoFLOP curve."""

    flops: float
    n_parameters: float
    n_tokens: float
    loss: float
    curvature: float
    """Of the loss over log N; positive."""


class ParabolaFit(BaseModel, frozen=True):
    """Minima of IsoFLOP curves and the exponents that join them."""

    vertices: tuple[Vertex, ...]
    size_exponent: Interval
    """a of N* ~ C^a."""
    data_exponent: Interval
    """b of D* ~ C^b."""


def read_runs(file: Path) -> list[Run]:
    """Return the runs of a file of JSON lines with n_parameters, n_tokens, loss.

    Raises:
        UserError: A line is no such record.
    """
    runs = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            runs.append(Run.model_validate(json.loads(line)))
        except (json.JSONDecodeError, ValidationError) as error:
            raise UserError(
                f"{file} line {number} is no run: it must be JSON with n_parameters, n_tokens and loss above 0; "
                f"{str(error).splitlines()[0]}"
            ) from error
    return runs


def fit_law(runs: Sequence[Run], *, n_bootstrap: int = 0, seed: int = 0, name: str = OWN) -> LawFit:
    """Fit E, A, B, alpha and beta.

    Args:
        runs: At least six, of at least three sizes and three numbers of tokens.
        n_bootstrap: Samples with replacement for the intervals; 0: none.
        seed: Of the starts and of the bootstrap.
        name: Of the law.

    Raises:
        UserError: There are too few different runs for five constants.
    """
    import numpy as np

    _enough(runs)
    table_R3 = np.log([[run.n_parameters, run.n_tokens, run.loss] for run in runs])
    random = np.random.default_rng(seed)
    best, objective = _minimise(table_R3, _starts(random, N_STARTS))
    samples = []
    for _ in range(n_bootstrap):
        chosen = table_R3[random.integers(0, len(runs), len(runs))]
        samples.append(_minimise(chosen, [best, *_starts(random, N_RESTARTS)])[0])
    law = ScalingLaw(name=name, **_constants(best), source=f"fitted to {len(runs)} runs of one's own")
    return LawFit(law=law, objective=objective, intervals=_intervals(law, samples))


def fit_parabolas(runs: Sequence[Run], *, n_bootstrap: int = 0, seed: int = 0) -> ParabolaFit:
    """Fit a parabola over log N at each compute budget, and lines through their minima.

    The bootstrap draws the residuals of each curve anew; without it, or with three sizes a curve, the intervals
    have no width. Nothing in them knows that a wide curve is no parabola: keep sizes within a factor of 3 of the
    best one.

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
            again = [
                run.model_copy(update={"loss": float(value)})
                for run, value in zip(curve, fitted + noise, strict=True)
            ]
            drawn.append(_parabola(again)[0])
        samples.append(_slopes(drawn))
    low, high = np.percentile(np.array(samples), (2.5, 97.5), axis=0)
    size, data = (
        Interval(value=value, low=float(least), high=float(most))
        for value, least, most in zip(exponents, low, high, strict=True)
    )
    return ParabolaFit(vertices=vertices, size_exponent=size, data_exponent=data)


def isoflop_curves(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs by compute budget, smallest first, each curve by size."""
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
    best = min(fits, key=lambda fit: float(fit.fun))
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


def _enough(runs: Sequence[Run]) -> None:
    sizes, tokens = {run.n_parameters for run in runs}, {run.n_tokens for run in runs}
    if len(runs) < 6 or len(sizes) < 3 or len(tokens) < 3:
        raise UserError(
            f"{len(runs)} runs of {len(sizes)} sizes and {len(tokens)} numbers of tokens do not settle five "
            f"constants; give at least 6 runs of 3 sizes and 3 numbers of tokens"
        )
