"""Tables below BFCL's summary: accuracy with and without disputed items, aggregates, kinds of error."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from evals.case import Case, Run, Score
from evals.harness.suite import Table
from evals.statistics import Interval, mean_interval
from evals.tool_use.bfcl.data import CATEGORIES
from evals.tool_use.bfcl.disputed import DISPUTED

Scored = tuple[Case, Run, Score]

SIMPLE = ("simple_python", "simple_java", "simple_javascript")
LIVE_AST = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
N_ERROR_TYPES = 12


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A score of the leaderboard over several categories."""

    name: str
    weights: Mapping[str, float]
    """Weight of each category; if all are 0, every item has the same weight."""
    how: str


AGGREGATES = (
    Aggregate(
        "non-live AST",
        {**dict.fromkeys(SIMPLE, 1 / 12), "multiple": 1 / 4, "parallel": 1 / 4, "parallel_multiple": 1 / 4},
        "mean of simple (itself a mean over 3 languages), multiple, parallel, parallel_multiple",
    ),
    Aggregate("live AST", dict.fromkeys(LIVE_AST, 0.0), "all items of the four live categories with keys"),
    Aggregate("irrelevance", {"irrelevance": 1 / 2, "live_irrelevance": 1 / 2}, "mean of both categories"),
)
"""Aggregates as in BFCL v4: `generate_leaderboard_csv` of the bfcl-eval wheel."""


def tables(scored: Sequence[Scored]) -> list[Table]:
    """Return the tables over all scored runs."""
    by_category: dict[str, list[Scored]] = {category: [] for category in CATEGORIES}
    for each in scored:
        by_category.setdefault(each[0].group, []).append(each)
    present = {category: members for category, members in by_category.items() if members}
    found = [_categories(present)]
    aggregates = _aggregates(present)
    if aggregates.rows:
        found.append(aggregates)
    errors = _errors(present)
    if errors.rows:
        found.append(errors)
    return found


def aggregate(weights: Mapping[str, float], scores: Mapping[str, Sequence[float]]) -> Interval:
    """Return a weighted mean over categories with its 95 % interval; if all weights are 0, items are pooled.

    Pooled items have a Wilson interval. The interval of a weighted mean combines those of its parts (MOVER, Zou
    and Donner 2008): the weighted distances of the parts' bounds from their estimates add up in squares.
    """
    if not any(weights.values()):
        return mean_interval([score for category in weights for score in scores[category]])
    parts = {category: mean_interval(scores[category]) for category in weights}
    value = math.fsum(weight * parts[category].value for category, weight in weights.items())
    below = math.hypot(*(weight * (parts[c].value - parts[c].low) for c, weight in weights.items()))
    above = math.hypot(*(weight * (parts[c].high - parts[c].value) for c, weight in weights.items()))
    return Interval(value, max(0.0, value - below), min(1.0, value + above), sum(p.n for p in parts.values()))


def case_scores(members: Iterable[Scored], *, disputed: bool = True) -> list[float]:
    """Return each case's mean over its epochs; `disputed=False` excludes disputed items."""
    by_case: dict[str, list[float]] = {}
    for case, _, score in members:
        if disputed or case.id not in DISPUTED:
            by_case.setdefault(case.id, []).append(score.value)
    return [fmean(values) for values in by_case.values()]


def _categories(present: Mapping[str, Sequence[Scored]]) -> Table:
    columns = (
        "category", "n", "accuracy", "95 % interval", "disputed", "accuracy without", "95 % interval",
        "called", "failed", "timed out", "s/case", "tokens in/case", "out/case",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for category, members in present.items():
        runs = [run for _, run, _ in members]
        rows.append(
            (
                category,
                str(len({case.id for case, _, _ in members})),
                *_cells(mean_interval(case_scores(members))),
                str(len({case.id for case, _, _ in members if case.id in DISPUTED})),
                *_cells(_interval(case_scores(members, disputed=False))),
                f"{fmean(bool(run.calls) for run in runs):.3f}",
                str(sum(run.status == "failed" for run in runs)),
                str(sum(run.status == "timed_out" for run in runs)),
                f"{fmean(run.wall_s for run in runs):.2f}",
                f"{fmean(run.usage.input_tokens for run in runs):.0f}",
                f"{fmean(run.usage.output_tokens for run in runs):.0f}",
            )
        )
    return Table("BFCL by category, with and without disputed items", columns, tuple(rows))


def _aggregates(present: Mapping[str, Sequence[Scored]]) -> Table:
    rows: list[tuple[str, ...]] = []
    for each in AGGREGATES:
        if not all(category in present for category in each.weights):
            continue
        both: list[str] = []
        n = 0
        for disputed in (True, False):
            scores = {category: case_scores(present[category], disputed=disputed) for category in each.weights}
            if not all(scores.values()):
                both += ["", ""]
                continue
            interval = aggregate(each.weights, scores)
            n = n or interval.n
            both += _cells(interval)
        rows.append((each.name, str(n), *both, each.how))
    columns = ("aggregate", "n", "accuracy", "95 % interval", "without disputed", "95 % interval", "over")
    return Table("BFCL aggregates of the leaderboard", columns, tuple(rows))


def _errors(present: Mapping[str, Sequence[Scored]]) -> Table:
    """Count wrong answers by kind.

    The kind is the part of a score's explanation before the first colon and space.
    """
    kinds: Counter[tuple[str, str]] = Counter()
    for category, members in present.items():
        for _, _, score in members:
            if score.value < 1.0:
                kinds[category, score.explanation.split(": ")[0]] += 1
    total: Counter[str] = Counter()
    for (_, kind), n in kinds.items():
        total[kind] += n
    rows = [
        (kind, str(n), *(str(kinds[category, kind] or "") for category in present))
        for kind, n in total.most_common(N_ERROR_TYPES)
    ]
    return Table("BFCL: what was wrong", ("error", "all", *present), tuple(rows))


def _interval(scores: Sequence[float]) -> Interval | None:
    return mean_interval(scores) if scores else None


def _cells(interval: Interval | None) -> tuple[str, str]:
    if interval is None:
        return "", ""
    return f"{interval.value:.3f}", f"{interval.low:.3f} to {interval.high:.3f}"
