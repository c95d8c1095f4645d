"""Report of IsoFLOP fits: curves with parabolas, minima with fitted lines, constants.

Letters: N parameters, D tokens, C FLOPs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelstack.architecture.counts.table import quantity
from modelstack.decide.isoflop import Interval, LawFit, ParabolaFit, Run, isoflop_curves
from modelstack.decide.plan_page import label_by_size, save_figure
from modelstack.decide.scaling_laws import LAWS
from modelstack.files import replacing

LAW_FILE, FIT_PLOT_FILE = "law.json", "isoflop.png"


def write_fit(fit: LawFit, parabolas: ParabolaFit, runs: Sequence[Run], folder: Path) -> tuple[Path, Path]:
    """Write `law.json` and `isoflop.png` into a folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / LAW_FILE) as temporary:
        temporary.write_text(fit.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return folder / LAW_FILE, draw_fit(fit, parabolas, runs, folder / FIT_PLOT_FILE)


def told(fit: LawFit, parabolas: ParabolaFit) -> list[str]:
    """Return the results as lines of text, with the published exponents."""
    constants = [
        f"  {name:<5} {getattr(fit.law, name):.4g}{_bounds(fit.intervals.get(name), '.4g')}"
        for name in ("E", "A", "B", "alpha", "beta")
    ]
    published = ", ".join(f"{law.name} {law.size_exponent:.3f}" for law in LAWS.values())
    size, data = parabolas.size_exponent, parabolas.data_exponent
    return [
        "fitted law: loss = E + A / N^alpha + B / D^beta, for N parameters and D tokens",
        *constants,
        "best sizes for a budget of C FLOPs:",
        f"  N ~ C^{fit.law.size_exponent:.3f} by the law (published: {published})",
        f"  N ~ C^{size.value:.3f}{_bounds(size, '.3f')} by parabolas",
        f"  D ~ C^{data.value:.3f}{_bounds(data, '.3f')} by parabolas",
    ]


def _bounds(interval: Interval | None, form: str) -> str:
    """Return the bounds of an interval in words; "" without a bootstrap."""
    if interval is None or interval.low == interval.high:
        return ""
    return f" (95 %: {interval.low:{form}} to {interval.high:{form}})"


def draw_fit(fit: LawFit, parabolas: ParabolaFit, runs: Sequence[Run], path: Path) -> Path:
    """Draw loss over size at each budget with the fitted law, and the minima over compute."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    curves = isoflop_curves(runs)
    shades = colormaps["viridis"](np.linspace(0.05, 0.85, len(curves)))
    for curve, vertex, shade in zip(curves, parabolas.vertices, shades, strict=True):
        left.plot([run.n_parameters for run in curve], [run.loss for run in curve], "o", color=shade, markersize=4)
        ends = curve[0].n_parameters, curve[-1].n_parameters
        sizes = np.geomspace(*ends, 100)
        parabola = vertex.loss + vertex.curvature / 2 * np.log(sizes / vertex.n_parameters) ** 2
        left.plot(sizes, parabola, color=shade, label=f"{quantity(vertex.flops, 'FLOP')}")
        law = [fit.law.loss(N, vertex.flops / (6 * N)) for N in sizes]
        left.plot(sizes, law, color=shade, linestyle="--", linewidth=0.9)
    left.plot([], [], color="#666666", linestyle="--", linewidth=0.9, label="fitted law")
    left.set_xlabel("parameters")
    left.set_ylabel("nats per token")
    left.set_title("IsoFLOP curves and their parabolas", fontsize=10)
    _draw_minima(right, fit, parabolas)
    for axes in (left, right):
        axes.set_xscale("log")
        label_by_size(axes.xaxis)
    return save_figure(figure, path)


def _draw_minima(axes: Any, fit: LawFit, parabolas: ParabolaFit) -> None:
    import numpy as np

    flops = np.array([vertex.flops for vertex in parabolas.vertices])
    sizes = [vertex.n_parameters for vertex in parabolas.vertices]
    axes.plot(flops, sizes, "o", color="#1b6ca8", label=f"minima: N ~ C^{parabolas.size_exponent.value:.3f}")
    span = np.geomspace(flops.min() / 2, flops.max() * 2, 50)
    colours = ("#1b6ca8", "#f2a65a", "#8d6cab", "#5b8c5a")
    for colour, law in zip(colours, (fit.law, *LAWS.values()), strict=True):
        label = f"{law.name}: C^{law.size_exponent:.3f}"
        axes.plot(span, [law.optimum(C).n_parameters for C in span], color=colour, linewidth=1, label=label)
    axes.set_yscale("log")
    label_by_size(axes.yaxis)
    axes.set_xlabel("training FLOPs")
    axes.set_ylabel("best number of parameters")
    axes.set_title("Where the minima lie", fontsize=10)
