"""Figures of a refusal run: the curve of attack success against false refusal, and the guard's reliability."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evals.refusals.report import Triple, guard_curve, guard_scores, guarded
from evals.statistics import reliability

N_BINS = 10


def plots(triples: Sequence[Triple], folder: Path) -> list[Path]:
    """Draw what a run gives: both figures with a guard; without one there is no threshold to sweep, so none."""
    if not guarded(triples):
        return []
    drawn = [draw_curves(triples, folder / "refusals_curve.png")]
    harmful, benign = guard_scores(triples)
    if harmful and benign:
        drawn.append(draw_reliability(harmful, benign, folder / "refusals_reliability.png"))
    return [path for path in drawn if path is not None]


def draw_curves(triples: Sequence[Triple], path: Path) -> Path | None:
    """Draw both curves with Wilson bands over attack success; None where one side has no requests."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, combined, colour in (("guard alone", False, "#1f6f8b"), ("guard and model", True, "#c0561f")):
        points = guard_curve(triples, combined=combined)
        if points is None:
            return None
        x = [point.false_refusal.value for point in points]
        axes.step(x, [p.attack_success.value for p in points], where="post", color=colour, label=name)
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
    bins = reliability([*harmful, *benign], outcomes, n_bins=N_BINS)
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot((0, 1), (0, 1), color="#999999", linewidth=1)
    axes.plot([b.mean_probability for b in bins], [b.share_true for b in bins], "o-", color="#1f6f8b")
    axes.set(xlabel="probability of harm", ylabel="share harmful", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"Reliability, {len(bins)} bins of equal mass, n = {len(outcomes)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
