"""Figures: attack success against false refusal, and the reliability of probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evals.refusals.curves import ScoredRequest, sweep
from evals.statistics import reliability
from tools.classifiers.evaluation.measures import Judged, pooled
from tools.classifiers.evaluation.text_sets import TextSet

COLOURS = ("#1f6f8b", "#c0561f")
LEAST_SHOWN = 1e-3
"""Lower end of the log scale of false refusal; the range below 5 % matters most."""


def draw(label: str, sets: Sequence[TextSet], judges: Sequence[Judged], kind: str, path: Path) -> Path:
    """Draw both figures side by side for one pool of sets, and return the path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    curve, calibration = figure.subplots(1, 2)
    for judged, colour in zip(judges, COLOURS, strict=False):
        harmful, benign = pooled(sets, judged, kind)
        points = sweep([ScoredRequest(p) for p in harmful], [ScoredRequest(p) for p in benign])
        x = [max(LEAST_SHOWN, point.false_refusal.value) for point in points]
        curve.step(x, [p.attack_success.value for p in points], where="post", color=colour, label=judged.name)
        low, high = [p.attack_success.low for p in points], [p.attack_success.high for p in points]
        curve.fill_between(x, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
        outcomes = [True] * len(harmful) + [False] * len(benign)
        bins = reliability([*harmful, *benign], outcomes)
        x, y = [b.mean_probability for b in bins], [b.share_true for b in bins]
        calibration.plot(x, y, "o-", color=colour, label=judged.name)
    curve.set(xlabel="false refusal (log scale)", ylabel="attack success", xlim=(LEAST_SHOWN, 1), ylim=(0, 1))
    curve.set_xscale("log")
    curve.set_title(f"{label}, {kind} sets; band: 95 % Wilson")
    calibration.plot((0, 1), (0, 1), color="#999999", linewidth=1)
    calibration.set(xlabel="probability", ylabel="share true", xlim=(0, 1), ylim=(0, 1))
    calibration.set_title("Reliability, 15 bins of equal mass")
    for axes in (curve, calibration):
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
