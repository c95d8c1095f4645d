"""Tables: measures with and without the grammar, paired comparison, sources, and coverage of the grammars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from evals.case import Case, Run, Score
from evals.harness.suite import Table
from evals.statistics import mcnemar, mean_interval
from evals.structured_output.coverage import SchemaCoverage, coverage_tables
from evals.structured_output.scoring import LENIENT, MEASURES, STRICT, TASK_MEASURES, figures_of
from evals.structured_output.solving import FREE, GRAMMAR

Scored = tuple[Case, Run, Score]
LABELS = {
    "parses": "parses as JSON",
    "valid": "valid (Draft 2020-12)",
    "closed": "valid, no undeclared properties",
    "exact": "exact match",
    "field_f1": "field F1",
}
_COLUMNS = (
    (GRAMMAR, STRICT, "with grammar"),
    (FREE, STRICT, "without, strict"),
    (FREE, LENIENT, "without, lenient"),
)
"""With the grammar, both ways of parsing agree, because the whole reply is JSON."""


def tables(scored: Sequence[Scored]) -> list[Table]:
    """Return the suite's additional tables."""
    runs = judged(scored)
    return [_side_by_side(runs), *_comparison(runs), _sources(runs), *_coverage(runs)]


@dataclass(frozen=True, slots=True)
class Judged:
    """A scored run with all its measures."""

    case: Case
    run: Run
    figures: Mapping[str, float]


def judged(scored: Iterable[Scored]) -> list[Judged]:
    """Return the runs with their measures."""
    return [Judged(case, run, figures_of(case, run)) for case, run, _ in scored]


def by_item(runs: Iterable[Judged], mode: str, figure: str) -> dict[str, float]:
    """Return one measure by item, over the cases of a mode that have it, averaged over the epochs."""
    found: dict[str, list[float]] = {}
    for each in runs:
        if each.case.data["mode"] == mode and figure in each.figures:
            found.setdefault(each.case.data["item"], []).append(each.figures[figure])
    return {item: sum(values) / len(values) for item, values in found.items()}


def _side_by_side(runs: Sequence[Judged]) -> Table:
    rows = []
    for measure in MEASURES + TASK_MEASURES:
        columns = [by_item(runs, mode, measure + reading) for mode, reading, _ in _COLUMNS]
        if any(columns):
            n = max(map(len, columns))
            rows.append(
                (LABELS[measure], str(n), *(str(mean_interval(list(c.values()))) if c else "" for c in columns))
            )
    labels = [label for _, _, label in _COLUMNS]
    return Table("With and without the grammar (mean, 95 % interval)", ("measure", "n", *labels), tuple(rows))


def _comparison(runs: Sequence[Judged]) -> list[Table]:
    """Compare both modes on their common items (McNemar, exact); empty if only one mode was run."""
    rows = []
    for measure in (*MEASURES, "exact"):
        first = by_item(runs, GRAMMAR, measure)
        for reading, label in ((STRICT, "strict"), (LENIENT, "lenient")):
            second = by_item(runs, FREE, measure + reading)
            items = [item for item in first if item in second]
            if items:
                # With several epochs, an item counts as correct if most of its runs are.
                pairs = [[values[item] > 0.5 for item in items] for values in (first, second)]
                only_with, only_without, p = mcnemar(*pairs)
                name = f"{LABELS[measure]}, without read {label}"
                rows.append((name, str(len(items)), str(only_with), str(only_without), f"{p:.2g}"))
    columns = ("measure", "pairs", "only with grammar", "only without", "p")
    return [Table("With against without the grammar (McNemar, exact)", columns, tuple(rows))] if rows else []


def _sources(runs: Sequence[Judged]) -> Table:
    keys = dict.fromkeys((each.case.data["source"], each.case.data["license"]) for each in runs)
    rows = []
    for source, license_name in keys:
        part = [
            each
            for each in runs
            if (each.case.data["source"], each.case.data["license"]) == (source, license_name)
        ]
        cells = []
        for measure in ("valid", "exact"):
            for mode in (GRAMMAR, FREE):
                values = by_item(part, mode, measure)
                cells.append(f"{sum(values.values()) / len(values):.3f}" if values else "")
        n = len({each.case.data["item"] for each in part})
        rows.append((source, license_name, str(n), *cells))
    columns = ("source", "licence", "items", "valid with", "valid without", "exact with", "exact without")
    return Table("Sources (read strictly)", columns, tuple(rows))


def _coverage(runs: Sequence[Judged]) -> list[Table]:
    """Return tables of the observed coverage; a remote server's grammar cannot be inspected."""
    found: dict[str, list[SchemaCoverage]] = {}
    seen: Counter[str] = Counter()
    for each in runs:
        observed: Mapping[str, Mapping[str, object]] = each.run.observed.get("coverage", {})
        seen[each.case.id] += bool(observed)
        if seen[each.case.id] == 1:
            for engine, fields in observed.items():
                found.setdefault(engine, []).append(SchemaCoverage(**fields))  # pyright: ignore[reportArgumentType]
    return coverage_tables(found) if found else []
