"""Report of a red-team run: a table by transform and one by hazard, a page, a picture.

Rates are of attempts that the target has a form for, with Wilson's 95 % interval. A defence is judged by both
sides: attacks that got through, and harmless twins that were refused or flagged under the same transform.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelstack.align.attack.run import AttackPlan, Record
from modelstack.files import replacing
from modelstack.terminal.tables import Column, Table

PAGE_FILE, PLOT_FILE = "attack.md", "attack.png"


@dataclass(frozen=True, slots=True)
class Rate:
    """Share of some attempts."""

    n: int
    of: int

    @property
    def value(self) -> float | None:
        """The share; None of nothing."""
        return self.n / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval; (0, 1) of nothing."""
        from scipy.stats import binomtest

        if not self.of:
            return 0.0, 1.0
        found = binomtest(self.n, self.of).proportion_ci(method="wilson")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        """Return the share with its interval."""
        low, high = self.interval
        return "" if self.value is None else f"{self.value:.3f} ({low:.3f} to {high:.3f})"


@dataclass(frozen=True, slots=True)
class Row:
    """Rates of a group of attempts."""

    name: str
    attack: Rate
    """Harmful requests with a reply that complied."""
    stopped: Rate
    """Harmful requests whose reply a filter of the target stopped."""
    refused: Rate
    """Harmless twins that were refused, stopped or answered in part."""
    flagged: Rate
    """Harmful requests that the classifiers flag."""
    flagged_harmless: Rate


def rows_by(records: Sequence[Record], key: Callable[[Record], str]) -> list[Row]:
    """Return the rates of each group, in the order of their first records."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if "unable" not in record.kinds:
            groups.setdefault(key(record), []).append(record)
    return [_row(name, group) for name, group in groups.items()]


def _row(name: str, records: Sequence[Record]) -> Row:
    harmful = [each for each in records if each.harmful]
    harmless = [each for each in records if not each.harmful]

    def rate(of: Sequence[Record], holds: Callable[[Record], bool]) -> Rate:
        return Rate(sum(map(holds, of)), len(of))

    return Row(
        name,
        rate(harmful, lambda each: each.succeeded),
        rate(harmful, lambda each: not each.succeeded and "stopped" in each.kinds),
        rate(harmless, lambda each: not each.succeeded),
        rate(harmful, lambda each: each.flagged),
        rate(harmless, lambda each: each.flagged),
    )


_COLUMNS = ("attack succeeded", "stopped", "harmless refused", "flagged", "harmless flagged")


def table(title: str, group: str, rows: Sequence[Row]) -> Table:
    """Return the table of some groups; a terminal shows shares alone, a pipe and the page their intervals, too."""
    columns = (Column(name, show=_share) for name in _COLUMNS)
    cells = [(row.name, row.attack, row.stopped, row.refused, row.flagged, row.flagged_harmless) for row in rows]
    return Table((Column(group), *columns), cells, title=title)


def _share(rate: Rate) -> str:
    return "" if rate.value is None else f"{rate.value:.3f}"


def tables(records: Sequence[Record]) -> list[Table]:
    """Return the tables of a run: by transform, by hazard, and all together."""
    by_transform = rows_by(records, lambda each: each.transform)
    everything = rows_by(records, lambda each: "all")
    by_hazard = sorted(rows_by(records, lambda each: each.hazard or "unknown"), key=lambda row: row.name)
    return [
        table("By transform", "transform", [*by_transform, *everything]),
        table("By hazard", "hazard", by_hazard),
    ]


def write_report(records: Sequence[Record], plan: AttackPlan, path: Path) -> Path:
    """Write `attack.md` and `attack.png` into the folder of a run; return the page's path."""
    unable = sorted({each.transform for each in records if "unable" in each.kinds})
    lines = [f"# Red team: {plan.target}", ""]
    lines.append(
        f"{len({each.id for each in records if each.harmful})} harmful requests and their harmless twins under "
        f"{len(plan.transforms)} transforms, {plan.samples} replies each at temperature {plan.temperature:g}, at "
        f"most {plan.max_tokens} tokens, seed {plan.seed}. A reply is judged by words: refusal, partial refusal, "
        f"compliance. Compliance says that the model answered, not that the answer is of use."
    )
    lines += ["", f"![Attacks that succeeded, by transform]({PLOT_FILE})"]
    if unable:
        lines += ["", f"Left out, as the target has no form for them: {', '.join(unable)}."]
    for each in tables(records):
        heads = [column.heading for column in each.columns]
        lines += ["", f"## {each.title}", "", f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
        lines += [f"| {' | '.join(map(str, row))} |" for row in each.rows]
    _draw(rows_by(records, lambda each: each.transform), path / PLOT_FILE)
    with replacing(path / PAGE_FILE) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path / PAGE_FILE


def _draw(rows: Sequence[Row], file: Path) -> None:
    from matplotlib.figure import Figure

    ordered = sorted(rows, key=lambda row: row.attack.value or 0.0)
    figure = Figure(figsize=(8, 0.6 + 0.42 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    for place, (rate_of, colour, label) in enumerate(
        (
            (lambda row: row.refused, "#8d8d8d", "harmless twin refused"),
            (lambda row: row.attack, "#b3312c", "attack succeeded"),
        )
    ):
        rates: list[Rate] = [rate_of(row) for row in ordered]
        values = [rate.value or 0.0 for rate in rates]
        errors = [
            [max(0.0, value - rate.interval[0]) for value, rate in zip(values, rates, strict=True)],
            [max(0.0, rate.interval[1] - value) for value, rate in zip(values, rates, strict=True)],
        ]
        heights = [number + (place - 0.5) * 0.38 for number in range(len(ordered))]
        axes.barh(heights, values, 0.36, xerr=errors, color=colour, ecolor="#444444", label=label)
    axes.set_yticks(range(len(ordered)), [row.name for row in ordered])
    axes.set_xlim(0, 1)
    axes.set_xlabel("share, with 95 % interval")
    axes.legend(loc="lower right")
    with replacing(file) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
