"""Plot of a run: documents left after each step, reasons for drops, and lengths of kept and dropped texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelstack.data.pipeline.counting import DROPPED, KEPT, Counts
from modelstack.data.pipeline.phases import FilterPhase
from modelstack.files import replacing

N_REASONS = 25
"""Maximum bars in the plot of reasons."""
KEPT_COLOUR, DROPPED_COLOUR = "#4c78a8", "#e45756"


def draw(filters: Sequence[FilterPhase], counts: Sequence[Counts], path: Path) -> None:
    """Draw the counts of the phases."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(2, 2, 1.6))
    _bars(left, _funnel(filters, counts), KEPT_COLOUR, "documents left after each step")
    _bars(middle, _reasons(counts)[:N_REASONS], DROPPED_COLOUR, "dropped, by reason")
    dropped = sum((count.lengths.get(DROPPED, Counter()) for count in counts), Counter[int]())
    for what, lengths, colour in (
        (KEPT, counts[-1].lengths.get(KEPT, Counter()), KEPT_COLOUR),
        (DROPPED, dropped, DROPPED_COLOUR),
    ):
        powers = sorted(lengths)
        heights = [lengths[power] for power in powers]
        right.step([2**power for power in powers], heights, color=colour, label=what, where="mid")
    right.set_xscale("log", base=2)
    right.set_xlabel("characters")
    right.set_title("documents by length", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _funnel(filters: Sequence[FilterPhase], counts: Sequence[Counts]) -> list[tuple[str, int]]:
    left = [("read from files", counts[0].n_in)]
    for number, (phase, count) in enumerate(zip(filters, counts, strict=True)):
        n_left = count.n_in
        for step in phase.step_names if number == 0 else phase.step_names[1:]:  # reading happens once
            n_left -= sum(count.dropped.get(step, {}).values())
            left.append((step, n_left))
    return left


def _reasons(counts: Sequence[Counts]) -> list[tuple[str, int]]:
    found = [
        (f"{step}: {reason}", n)
        for count in counts
        for step, reasons in count.dropped.items()
        for reason, n in reasons.items()
    ]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))


def _bars(axes: Any, bars: Sequence[tuple[str, int]], colour: str, title: str) -> None:
    axes.barh(range(len(bars)), [n for _, n in bars], color=colour)
    # matplotlib interprets a dollar sign as the start of a formula.
    names = [name.replace("$", r"\$") for name, _ in bars]
    axes.set_yticks(range(len(bars)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
