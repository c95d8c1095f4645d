"""Plots reward, length, entropy and KL over the steps: each seed pale, their mean in the foreground."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelstack.files import json_lines, replacing
from modelstack.posttrain.values_hook import REWARDS_FILE

PICTURE = "curves.png"
PANELS = {
    "reward/sampled": ("mean reward of a step", "reward"),
    "completions/length": ("tokens", "length of replies"),
    "entropy": ("nats a token", "entropy"),
    "kl_to_start": ("nats a token", "KL to the start"),
}
_COLOURS = ("#1b6ca8", "#f2a65a", "#8d6cab", "#5b8c5a", "#c0392b")
_MEAN = "#222222"

Points = Sequence[tuple[int, float]]


def read_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Read a run's values at each step, by panel name."""
    lines = json_lines(run / REWARDS_FILE)
    records = [json.loads(line) for line in lines]
    return {name: [(int(r["step"]), float(r[name])) for r in records if name in r] for name in PANELS}


def mean_curve(curves: Sequence[Points]) -> list[tuple[int, float]]:
    """Return the mean over the seeds at the steps that all of them have reached."""
    by_step: dict[int, list[float]] = {}
    for points in curves:
        for step, value in points:
            by_step.setdefault(step, []).append(value)
    return [
        (step, statistics.fmean(values)) for step, values in sorted(by_step.items()) if len(values) == len(curves)
    ]


def ends(points: Points, n: int = 5) -> tuple[float, float]:
    """Return the means of the first `n` and of the last `n` steps."""
    values = [value for _, value in points]
    return statistics.fmean(values[:n]), statistics.fmean(values[-n:])


def draw(of_seeds: Mapping[int, Mapping[str, Points]], picture: Path) -> None:
    """Draw the curves of all seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(3.6 * len(PANELS), 3.2), layout="constrained")
    for ax, (name, (unit, title)) in zip(axes, PANELS.items(), strict=True):
        curves = [(seed, curves[name]) for seed, curves in sorted(of_seeds.items())]
        for number, (seed, points) in enumerate(curves):
            colour = _COLOURS[number % len(_COLOURS)]
            ax.plot(*_columns(points), color=colour, alpha=0.5, linewidth=1, label=f"seed {seed}")
        if len(curves) > 1:
            mean = mean_curve([points for _, points in curves])
            ax.plot(*_columns(mean), color=_MEAN, linewidth=1.8, label="mean")
        ax.set_title(title)
        ax.set_xlabel("step")
        ax.set_ylabel(unit)
    axes[0].legend(frameon=False, fontsize=8)
    with replacing(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    pyplot.close(figure)


def _columns(points: Points) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]
