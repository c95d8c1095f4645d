"""Loss curves from the lines of `metrics.jsonl`, for running, finished and interrupted runs.

There are four plots over the steps: training loss, per step and smoothed; held-out bits per byte, with lines for
simple models on the same bytes; gradient norm; learning rates. Rejected steps are crosses on the plot of the
gradient norm; roll-backs are vertical lines. `curves.json` beside the picture contains the numbers.

The smoothed loss is an exponential average without bias towards its start (as Adam's moments, arXiv 1412.6980);
rejected steps are excluded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from modelstack.files import replacing
from modelstack.train.evaluation import is_due
from modelstack.train.loop import Run
from modelstack.train.metrics import Measured, Metrics, SpentRecord, StepRecord, read_metrics
from modelstack.train.step import StepReport

CURVES_FILE, PLOT_FILE = "curves.json", "curves.png"
SMOOTHING = 0.98
"""Decay of the average: each step's loss has weight 0.02, so the average covers about 50 steps."""
ROLL_BACK = "went back to the weights of step"
"""Start of the guard's event text for a roll-back (`modelstack.stability.supervisor`)."""
_COLOURS = ("#1b6ca8", "#f2a65a", "#8d6cab", "#5b8c5a")
_REJECTED, _PALE = "#c0392b", "#b8d0e3"
_MARGINS = {"left": 0.07, "right": 0.99, "bottom": 0.06, "top": 0.96, "wspace": 0.17, "hspace": 0.12}
"""Room for the labels, as fractions. A layout that measures all labels takes longer than the drawing itself."""
_LEFT_OUT_SHARE = 0.02
"""Fraction of the first steps that do not affect the axis limits: their high loss would flatten the rest."""

Points = tuple[tuple[int, float], ...]
"""Pairs of a number of steps and a value."""


class Curves(BaseModel, frozen=True, extra="forbid"):
    """The plotted numbers. A value of step n is plotted at n + 1, the number of steps after it."""

    loss: Points
    smoothed: Points
    held_out: tuple[tuple[int, float, float, float], ...]
    """Steps, bits per byte, and the ends of its 95 % interval."""
    gradient_norm: Points
    learning_rates: dict[str, Points]
    rejected: tuple[int, ...]
    roll_backs: tuple[int, ...]
    baselines: dict[str, float]
    """Bits per byte of the baselines on the same bytes."""


class CurvesHook:
    """Hook that draws every `every` steps and at the end of the run."""

    def __init__(
        self,
        metrics_file: str | os.PathLike[str],
        folder: str | os.PathLike[str],
        *,
        every: int,
        metrics: Metrics,
        baselines: Mapping[str, float] | None = None,
    ) -> None:
        """Draw into `folder`; only on the rank that writes the metrics."""
        self.baselines = dict(baselines or {})
        """Bits per byte of the baselines; can be set later, because fitting them takes time."""
        self._metrics_file = metrics_file
        self._folder = Path(folder)
        self._every = every
        self._metrics = metrics

    def after_step(self, run: Run, report: StepReport) -> None:
        """Draw if it is due."""
        if is_due(run, self._every):
            started = time.perf_counter()
            write_curves(self._metrics_file, self._folder, self.baselines)
            seconds = time.perf_counter() - started
            self._metrics.add(SpentRecord(step=report.step, cause="curves", seconds=seconds))

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the metrics file holds everything."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: there is no state."""


def write_curves(
    metrics_file: str | os.PathLike[str], folder: Path, baselines: Mapping[str, float] | None = None
) -> tuple[Path, Path]:
    """Write `curves.json` and `curves.png` from a run's metrics and return their paths.

    A picture of the same numbers is kept. The numbers are written after their picture, so a run that is killed
    between the two draws again.

    Raises:
        UserError: The metrics are missing or broken.
    """
    curves = curves_of(read_metrics(metrics_file), baselines or {})
    numbers, picture = folder / CURVES_FILE, folder / PLOT_FILE
    content = curves.model_dump_json(indent=1) + "\n"
    if picture.exists() and numbers.exists() and numbers.read_text(encoding="utf-8") == content:
        return numbers, picture
    folder.mkdir(parents=True, exist_ok=True)
    draw(curves, picture)
    with replacing(numbers) as temporary:
        temporary.write_text(content, encoding="utf-8")
    return numbers, picture


def curves_of(measured: Measured, baselines: Mapping[str, float]) -> Curves:
    """Return the numbers of the plots."""
    taken = [record for record in measured.steps if not record.rejected]
    loss = _points(taken, {record.step: record.losses.get("total") for record in taken})
    roles = dict.fromkeys(role for record in measured.steps for role in record.learning_rates)
    return Curves(
        loss=loss,
        smoothed=smoothed(loss),
        held_out=tuple(
            (record.step + 1, record.bits_per_byte, record.low, record.high)
            for record in measured.evaluations
            if record.bits_per_byte is not None and record.low is not None and record.high is not None
        ),
        gradient_norm=_points(measured.steps, {record.step: record.gradient_norm for record in measured.steps}),
        learning_rates={
            role: _points(
                measured.steps, {record.step: record.learning_rates.get(role) for record in measured.steps}
            )
            for role in roles
        },
        rejected=tuple(record.step + 1 for record in measured.steps if record.rejected),
        roll_backs=tuple(record.step + 1 for record in measured.events if ROLL_BACK in record.text),
        baselines=dict(baselines),
    )


def smoothed(points: Points, share: float = SMOOTHING) -> Points:
    """Return the exponential average of the values, without bias towards its start."""
    average, weight = 0.0, 0.0
    values = []
    for step, value in points:
        average = share * average + (1 - share) * value
        weight = share * weight + (1 - share)
        values.append((step, average / weight))
    return tuple(values)


def draw(curves: Curves, path: Path) -> Path:
    """Draw the four plots to a PNG and return its path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8))
    (losses, held_out), (norms, rates) = figure.subplots(2, 2, sharex=True, gridspec_kw=_MARGINS)
    _line(losses, curves.loss, _PALE, "each step", width=0.7)
    _line(losses, curves.smoothed, _COLOURS[0], "smoothed")
    _set_limits(losses, curves)
    _titled(losses, "Training loss", "nats per token")
    _draw_held_out(held_out, curves)
    _line(norms, curves.gradient_norm, _COLOURS[0], "before clipping", width=0.7)
    _mark_rejected(norms, curves)
    if any(norm > 0 for _, norm in curves.gradient_norm):
        norms.set_yscale("log")
    _titled(norms, "Gradient norm", "")
    for n, (role, points) in enumerate(curves.learning_rates.items()):
        _line(rates, points, _COLOURS[n % len(_COLOURS)], role)
    _titled(rates, "Learning rates", "")
    for axes in (losses, held_out, norms, rates):
        for n, step in enumerate(curves.roll_backs):
            label = "roll-back" if n == 0 and axes is norms else None
            axes.axvline(step, color=_REJECTED, linewidth=0.8, linestyle="--", label=label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    for axes in (norms, rates):
        axes.set_xlabel("steps")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return path


def _points(records: Sequence[StepRecord], values: Mapping[int, float | None]) -> Points:
    found = ((record.step + 1, values[record.step]) for record in records)
    return tuple((step, value) for step, value in found if value is not None)


def _line(axes: Any, points: Points, colour: str, label: str, *, width: float = 1.5) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=width, label=label)


def _draw_held_out(axes: Any, curves: Curves) -> None:
    if curves.held_out:
        steps, values, low, high = zip(*curves.held_out, strict=True)
        axes.fill_between(steps, low, high, color=_PALE, alpha=0.5, linewidth=0)
        axes.plot(steps, values, "o-", color=_COLOURS[0], markersize=3, label=f"model, at last {values[-1]:.3f}")
    for n, (name, value) in enumerate(curves.baselines.items()):
        colour = _COLOURS[1 + n % (len(_COLOURS) - 1)]
        axes.axhline(value, color=colour, linewidth=1, linestyle=":", label=f"{name} {value:.3f}")
    _titled(axes, "Held out, 95 % interval over documents", "bits per byte")


def _mark_rejected(axes: Any, curves: Curves) -> None:
    """Draw a cross for each rejected step: at its gradient norm, or at the top if the norm was not finite."""
    if not curves.rejected:
        return
    norms = dict(curves.gradient_norm)
    top = max(norms.values(), default=1.0)
    heights = [norms.get(step, top) for step in curves.rejected]
    label = f"{len(curves.rejected)} rejected"
    axes.plot(curves.rejected, heights, "x", color=_REJECTED, markersize=6, label=label)


def _set_limits(axes: Any, curves: Curves) -> None:
    """Set the loss axis by the later steps, so that the first steps exceed it."""
    values = [value for _, value in curves.loss]
    shown = values[int(len(values) * _LEFT_OUT_SHARE) :]
    if len(shown) > 1 and max(shown) > min(shown):
        margin = 0.05 * (max(shown) - min(shown))
        axes.set_ylim(min(shown) - margin, max(shown) + margin)


def _titled(axes: Any, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=10, y=1.0)  # a given height: otherwise matplotlib measures all labels for it
    axes.set_ylabel(unit)
