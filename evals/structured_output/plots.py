"""Bar plots of the measures with and without the grammar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evals.statistics import mean_interval
from evals.structured_output.scoring import LENIENT, MEASURES, STRICT, TASK_MEASURES
from evals.structured_output.solving import FREE, GRAMMAR
from evals.structured_output.tables import LABELS, Scored, by_item, judged

_COLOURS = {(GRAMMAR, STRICT): "#1b6ca8", (FREE, LENIENT): "#f2a65a", (FREE, STRICT): "#b8b8b8"}
_NAMES = {
    (GRAMMAR, STRICT): "with grammar",
    (FREE, LENIENT): "without, read leniently",
    (FREE, STRICT): "without, read strictly",
}


def draw_modes(scored: Sequence[Scored], path: Path) -> Path:
    """Write the figure to `path` (its suffix is the format) and return the path."""
    from matplotlib.figure import Figure

    runs = judged(scored)
    measures = [m for m in MEASURES + TASK_MEASURES if any(m in each.figures for each in runs)]
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(_NAMES)
    for k, ((mode, reading), label) in enumerate(_NAMES.items()):
        bars = [(i, by_item(runs, mode, measure + reading)) for i, measure in enumerate(measures)]
        drawn = [(i, mean_interval(list(values.values()))) for i, values in bars if values]
        if drawn:
            axes.bar(
                [i + (k - 1) * width for i, _ in drawn],
                [interval.value for _, interval in drawn],
                width,
                yerr=[
                    [interval.value - interval.low for _, interval in drawn],
                    [interval.high - interval.value for _, interval in drawn],
                ],
                label=label,
                color=_COLOURS[mode, reading],
                capsize=2,
            )
    axes.set_xticks(range(len(measures)), [LABELS[measure].replace(", ", ",\n") for measure in measures])
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("mean, 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.15), ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
