"""Plot of a calibration: reliability before and after, and the risk-coverage curve."""

from __future__ import annotations

from pathlib import Path

from evals.confidence.measures import Fit, risk_curve
from evals.statistics import reliability

COLOURS = {"uncalibrated": "#c0561f", "calibrated": "#1f6f8b"}


def draw(fit: Fit, title: str, path: Path) -> Path:
    """Draw the figure and return the path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    diagram, curve = figure.subplots(1, 2)
    for (name, colour), calibrated in zip(COLOURS.items(), (False, True), strict=True):
        p = fit.probabilities(calibrated=calibrated)
        bins = reliability(p, fit.outcomes)
        diagram.plot(
            [b.mean_probability for b in bins], [b.share_true for b in bins], "o-", color=colour, label=name
        )
        curve.step(*risk_curve(p, fit.outcomes), where="post", color=colour, label=name)
    diagram.plot((0, 1), (0, 1), color="#999999", linewidth=1)
    diagram.set(xlabel="probability of the choice", ylabel="share right", xlim=(0, 1), ylim=(0, 1))
    diagram.set_title("Reliability, 15 bins of equal mass, held-out folds")
    curve.set(xlabel="share of choices taken", ylabel="share wrong of those", xlim=(0, 1), ylim=(0, None))
    curve.set_title("Risk and coverage")
    for axes in (diagram, curve):
        axes.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    return path
