"""The table of an ablation, with intervals over paired seeds, and its plots.

A choice is compared with the base seed by seed: same bytes, same initial weights where names agree. The interval
is Student's t over the seeds' differences. With three seeds it is wide (t = 4.30). If it contains 0, the table
reports "not shown".
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelstack.architecture.ablation.choices import BASE_CHOICE
from modelstack.architecture.ablation.running import Outcomes, Plan
from modelstack.architecture.counts.flops import training_flops_per_token
from modelstack.architecture.counts.memory import cache_bytes
from modelstack.architecture.counts.parameters import count_parameters
from modelstack.student import half_width_95

HEADINGS = {
    "choice": "choice",
    "bits/byte": "bits_per_byte",
    "difference ± 95 %": "difference",
    "verdict": "verdict",
    "weights": "parameters",
    "MFLOP/byte": "mflop_per_byte",
    "cache KiB": "cache_kib",
    "seconds": "seconds",
}
"""Keys of the columns by heading; FLOPs are those of training, seconds those of a run."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    name: str
    about: str
    bits_per_byte: float
    """Mean over seeds without diverged runs; NaN if all diverged."""
    difference: float
    """Paired difference to the base; below 0 is better."""
    low: float
    high: float
    n_seeds: int
    n_diverged: int
    parameters: int
    training_flops: float
    """FLOPs per byte, forward and backward."""
    cache_bytes: int
    """Bytes of the cache at full context in fp32."""
    seconds: float
    """Mean seconds of a run."""

    @property
    def verdict(self) -> str:
        """Conclusion from the interval."""
        if self.name == BASE_CHOICE.name:
            return ""
        if self.n_diverged:
            return f"diverged in {self.n_diverged} of {self.n_seeds + self.n_diverged}"
        if self.low <= 0 <= self.high or math.isnan(self.low):
            return "not shown"
        return "better" if self.high < 0 else "worse"


def rows_of(plan: Plan, outcomes: Outcomes) -> list[Row]:
    """Return the base and each choice, in the plan's order."""
    base = {seed: outcomes[BASE_CHOICE.name, seed].bits_per_byte for seed in plan.seeds}
    return [_row(choice.name, choice.about, plan, outcomes, base) for choice in (BASE_CHOICE, *plan.choices)]


def _row(name: str, about: str, plan: Plan, outcomes: Outcomes, base: Mapping[int, float]) -> Row:
    choice = next(c for c in (BASE_CHOICE, *plan.choices) if c.name == name)
    config = choice.config(plan.base)
    own = {seed: outcomes[name, seed] for seed in plan.seeds}
    good = {seed: o.bits_per_byte for seed, o in own.items() if not o.diverged and math.isfinite(base[seed])}
    difference, low, high = paired_interval([value - base[seed] for seed, value in good.items()])
    return Row(
        name,
        about,
        statistics.fmean(good.values()) if good else math.nan,
        difference,
        low,
        high,
        len(good),
        sum(o.diverged for o in own.values()),
        count_parameters(config).total,
        training_flops_per_token(config, plan.budget.length),
        cache_bytes(config, plan.budget.length, value_bytes=4),
        statistics.fmean(o.seconds for o in own.values()),
    )


def paired_interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return mean and 95 % interval of paired differences; the interval of a single difference is NaN."""
    n = len(differences)
    if n == 0:
        return math.nan, math.nan, math.nan
    mean = statistics.fmean(differences)
    if n == 1:
        return mean, math.nan, math.nan
    half = half_width_95(differences)
    return mean, mean - half, mean + half


def markdown(plan: Plan, rows: Sequence[Row], source: str, seconds: float | None = None) -> str:
    """Return the report in Markdown, with the table."""
    budget = plan.budget
    lines = [
        "# Ablation",
        "",
        f"{budget.steps} steps of {budget.rows} x {budget.length} bytes, learning rate {budget.learning_rate:g}, "
        f"seeds {', '.join(map(str, plan.seeds))}, text: {source}. Held-out bits per byte; the difference is "
        "paired by seed, with a 95 % interval (Student's t)."
        + (f" All runs took {seconds:.0f} s." if seconds is not None else ""),
        "",
        f"| {' | '.join(HEADINGS)} | what |",
        "|---" * (len(HEADINGS) + 1) + "|",
    ]
    lines += [f"| {' | '.join(cells(row))} | {row.about} |" for row in rows]
    return "\n".join(lines) + "\n"


def cells(row: Row) -> list[str]:
    """Return a row's cells as text."""
    is_base = row.name == BASE_CHOICE.name
    return [
        row.name,
        f"{row.bits_per_byte:.3f}",
        "" if is_base else f"{row.difference:+.3f} ±{row.high - row.difference:.3f}",
        row.verdict,
        f"{row.parameters / 1e6:.2f}M",
        f"{row.training_flops / 1e6:.2f}",
        f"{row.cache_bytes / 1024:.0f}",
        f"{row.seconds:.0f}",
    ]


def draw(plan: Plan, rows: Sequence[Row], outcomes: Outcomes, path: Path) -> None:
    """Draw the differences with their intervals, and the loss curves (mean over seeds), to a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    compared = [row for row in rows if row.name != BASE_CHOICE.name and math.isfinite(row.difference)]
    compared.sort(key=lambda row: row.difference, reverse=True)
    for y, row in enumerate(compared):
        color = {"better": "tab:green", "worse": "tab:red"}.get(row.verdict, "tab:gray")
        bars = [[row.difference - row.low], [row.high - row.difference]] if row.n_seeds > 1 else None
        left.errorbar(row.difference, y, xerr=bars, fmt="o", color=color, capsize=4)
    left.axvline(0, color="black", linewidth=1)
    left.set_yticks(range(len(compared)), [row.name for row in compared])
    left.set_xlabel(
        f"difference to the base in bits per byte (95 % over {len(plan.seeds)} paired seeds); left is better"
    )
    for row in rows:
        curves = [outcomes[row.name, seed].curve for seed in plan.seeds if not outcomes[row.name, seed].diverged]
        if curves:
            steps = [step for step, _ in curves[0]]
            means = [statistics.fmean(values) for values in zip(*([v for _, v in c] for c in curves), strict=True)]
            is_base = row.name == BASE_CHOICE.name
            right.plot(
                steps, means, label=row.name, color="black" if is_base else None, linewidth=2 if is_base else 1
            )
    right.set_xlabel("step")
    right.set_ylabel("held-out bits per byte")
    right.legend(fontsize=8)
    figure.savefig(path, dpi=130, format="png")  # the temporary name has no suffix
    plt.close(figure)
