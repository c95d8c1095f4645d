"""Plots of a refusal run: attack success against false refusal on one curve, and the guard's reliability.

Without a guard, the threshold is the judge's: the probability from which a reply counts as refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evals.refusals.curves import OperatingPoint
from evals.refusals.report import Triple, guard_curve, guard_scores, guarded, model_curve
from evals.statistics import reliability, wilson

MAX_BINS = 10
MIN_REQUESTS_OF_BIN = 5
"""Minimum per bin; the share of fewer requests has an interval over nearly the whole range."""
COLOURS = ("#1f6f8b", "#c0561f")
LINES = ("-", "--")
"""Line styles; the second is dashed because it coincides with the first if the model refuses nothing."""


def plots(triples: Sequence[Triple], folder: Path) -> list[Path]:
    """Draw the curve if both sides have requests, and the reliability if a guard gave scores."""
    if guarded(triples):
        curves = {
            "guard alone": guard_curve(triples, combined=False),
            "guard and model": guard_curve(triples, combined=True),
        }
    else:
        curves = {"model, over the judge's threshold": model_curve(triples)}
    known = {name: points for name, points in curves.items() if points is not None}
    if not known:
        return []
    drawn = [draw_curves(known, folder / "refusals_curve.png")]
    if guarded(triples):
        drawn.append(draw_reliability(*guard_scores(triples), folder / "refusals_reliability.png"))
    return drawn


def draw_curves(curves: Mapping[str, Sequence[OperatingPoint]], path: Path) -> Path:
    """Draw curves with Wilson bands for attack success."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for (name, points), colour, line in zip(curves.items(), COLOURS, LINES, strict=False):
        x = [point.false_refusal.value for point in points]
        axes.step(x, [p.attack_success.value for p in points], line, where="post", color=colour, label=name)
        low, high = [p.attack_success.low for p in points], [p.attack_success.high for p in points]
        axes.fill_between(x, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="false refusal", ylabel="attack success", xlim=(0, 1), ylim=(0, 1))
    axes.set_title("All thresholds; band: 95 % Wilson interval")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def draw_reliability(harmful: Sequence[float], benign: Sequence[float], path: Path) -> Path:
    """Draw the share of harmful requests over the guard's probability, in bins of equal mass."""
    from matplotlib.figure import Figure

    outcomes = [True] * len(harmful) + [False] * len(benign)
    n_bins = max(1, min(MAX_BINS, len(outcomes) // MIN_REQUESTS_OF_BIN))
    bins = reliability([*harmful, *benign], outcomes, n_bins=n_bins)
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot((0, 1), (0, 1), color="#999999", linewidth=1)
    shares = [wilson(round(b.share_true * b.n), b.n) for b in bins]
    bars = ([share.value - share.low for share in shares], [share.high - share.value for share in shares])
    x = [b.mean_probability for b in bins]
    axes.errorbar(x, [share.value for share in shares], yerr=bars, fmt="o-", color=COLOURS[0], capsize=2)
    axes.set(xlabel="probability of harm", ylabel="share harmful", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(
        f"Reliability, n = {len(outcomes)}\nbins of equal mass; bars: 95 % Wilson intervals", fontsize="medium"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
