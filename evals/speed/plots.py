"""Plots of benchmark records as PNG: programs side by side, and curves for quantities along an axis.

Bars start at zero. If values differ so much that only a logarithmic axis shows them all, there is no zero and dots
replace the bars. Lines are labelled at their ends instead of in a legend. Each plot states machine and date of the
measurement, because it may be copied elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.speed.results import Comparison, Curves
from evals.speed.running import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

OURS, PEER = "#1b6ca8", "#b4b4b4"
FAINT, MUTED = "#dddddd", "#666666"
_PEERS = ("#c9752b", "#5f9350", "#8f5f8b", "#7a7a7a", "#b5484a", "#3f8f8f")
LOGARITHMIC_FROM = 20
"""Ratio of the largest to the smallest value from which a linear axis would hide the small ones."""
MAX_NAMED_TICKS = 6
"""Maximum number of points on an axis with one tick each."""
LABEL_HEIGHT = 0.055
"""Minimum distance of adjacent labels, as a share of the axes' height."""


def draw_all(records: Sequence[Record], folder: Path) -> dict[str, list[Path]]:
    """Draw every comparison with a peer and every curve into `folder`, replacing old plots; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[str, list[Path]] = {}
    for record in records:
        for old in folder.glob(f"{record.benchmark}-*.png"):
            old.unlink()  # from an earlier run, whose titles may differ
        if record.result is None:
            continue
        drawings = [
            (comparison.title, _side_by_side(comparison, record))
            for comparison in record.result.comparisons
            if len(comparison.values) > 1 and comparison.values.get(comparison.ours)
        ]
        drawings += [(f"{c.title} along {c.x_label}", _lines(c, record)) for c in record.result.curves if c.lines]
        for title, drawing in drawings:
            path = folder / f"{record.benchmark}-{_slug(title)}.png"
            drawing.savefig(path, dpi=150)
            paths.setdefault(record.benchmark, []).append(path)
    return paths


def number(value: float) -> str:
    """Format a number with three significant digits, with an exponent only for extreme values."""
    if value == 0 or 1e-4 <= abs(value) < 1:
        return f"{value:.3g}"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}" if abs(value) < 1e7 else f"{value:.3g}"


def spread(positions: Mapping[str, float], distance: float) -> dict[str, float]:
    """Move positions apart so that neighbours are at least `distance` apart; order and mean stay."""
    groups: list[list[tuple[str, float]]] = []
    for item in sorted(positions.items(), key=lambda item: item[1]):
        groups.append([item])
        while len(groups) > 1 and _lowest(groups[-1], distance) - _highest(groups[-2], distance) < distance:
            groups[-2:] = [groups[-2] + groups[-1]]
    return {
        name: _lowest(group, distance) + index * distance
        for group in groups
        for index, (name, _) in enumerate(group)
    }


def _lowest(group: Sequence[tuple[str, float]], distance: float) -> float:
    middle = sum(position for _, position in group) / len(group)
    return middle - distance * (len(group) - 1) / 2


def _highest(group: Sequence[tuple[str, float]], distance: float) -> float:
    return _lowest(group, distance) + distance * (len(group) - 1)


def _side_by_side(comparison: Comparison, record: Record) -> Drawing:
    ours = comparison.values[comparison.ours]
    rows = sorted(comparison.values.items(), key=lambda item: item[1], reverse=True)
    names, values = [name for name, _ in rows], [value for _, value in rows]
    colours = [OURS if name == comparison.ours else PEER for name in names]
    drawing = _drawing(height=1.2 + 0.42 * len(rows))
    axes: Any = drawing.subplots()
    if min(values) > 0 and max(values) / min(values) > LOGARITHMIC_FROM:
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 2, max(values) * 2)
        axes.hlines(names, min(values) / 2, max(values) * 2, color=FAINT, linewidth=0.8, zorder=1)
        axes.scatter(values, names, c=colours, s=70, zorder=2)
        axes.margins(y=0.15)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    else:
        axes.barh(names, values, color=colours, height=0.62)
        axes.set_xlim(0, max(values) * 1.02)
    for name, value in rows:
        is_ours = name == comparison.ours
        label = f"{number(value)} {comparison.unit}" + ("" if is_ours else f"   {number(value / ours)}x")
        axes.text(
            1.01, name, label, transform=axes.get_yaxis_transform(), va="center", fontsize=9,
            color=OURS if is_ours else MUTED, weight="bold" if is_ours else "normal",
        )  # fmt: skip
    axes.set_xlabel(f"{comparison.unit} (x: times {comparison.ours})", fontsize=9, color=MUTED)
    axes.tick_params(axis="y", length=0)
    _finish(axes, comparison.title, record)
    return drawing


def _lines(curves: Curves, record: Record) -> Drawing:
    drawing = _drawing(height=4.0)
    axes: Any = drawing.subplots()
    peers = iter(_PEERS * (len(curves.lines) // len(_PEERS) + 1))
    colours = {name: OURS if name == curves.ours else next(peers) for name in curves.lines}
    for name, values in curves.lines.items():
        is_ours = name == curves.ours
        axes.plot(
            curves.x, values, marker="o", markersize=4 if is_ours else 3, color=colours[name],
            linewidth=2.4 if is_ours else 1.3, zorder=3 if is_ours else 2,
        )  # fmt: skip
    _scale_x(axes, curves.x)
    everything = [value for values in curves.lines.values() for value in values]
    if min(everything) > 0 and max(everything) / min(everything) > LOGARITHMIC_FROM:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, max(everything) * 1.06)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_xlabel(curves.x_label, fontsize=9, color=MUTED)
    axes.set_ylabel(curves.y_label, fontsize=9, color=MUTED)
    to_share = axes.transData + axes.transAxes.inverted()
    ends = {name: to_share.transform((curves.x[-1], values[-1]))[1] for name, values in curves.lines.items()}
    for name, height in spread(ends, LABEL_HEIGHT).items():
        axes.text(
            1.015, height, f"{name}  {number(curves.lines[name][-1])}", transform=axes.transAxes, va="center",
            fontsize=9, color=colours[name], weight="bold" if name == curves.ours else "normal",
        )  # fmt: skip
    _finish(axes, curves.title, record)
    return drawing


def _scale_x(axes: Any, x: Sequence[float]) -> None:
    """Set the x axis: few points far apart get a logarithmic axis with one tick each, others integer ticks."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    if len(x) <= MAX_NAMED_TICKS:
        if min(x) > 0 and max(x) / min(x) > LOGARITHMIC_FROM / 2:
            axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(list(x)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")


def _drawing(height: float) -> Drawing:
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(8, height), layout="constrained")
    engine: Any = drawing.get_layout_engine()
    engine.set(w_pad=0.12, h_pad=0.08)  # inches
    return drawing


def _finish(axes: Any, title: str, record: Record) -> None:
    short = ", short run: figures are not meaningful" if record.quick else ""
    commit = f", {record.machine.commit}" if record.machine.commit else ""
    machine = f"{record.machine.cpu}, {record.machine.cores} cores, {record.before.time[:10]}{commit}{short}"
    axes.set_title(f"{title[:1].upper()}{title[1:]}\n", fontsize=11, loc="left")
    axes.annotate(
        machine, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=7.5, color=MUTED
    )
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:80]
