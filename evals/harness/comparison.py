"""Paired comparison of two evaluations of one suite: difference, interval, and McNemar's test.

Cases are paired by id. Cases that only one evaluation has are listed, never dropped silently.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from agentkit.errors import UserError
from evals.harness.results import ALL, SUMMARY_FILE, read_rows
from evals.harness.suite import Table
from evals.statistics import Interval, mcnemar, paired_difference


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference between the two evaluations on one group of cases."""

    group: str
    first: float
    second: float
    difference: Interval
    """Mean of second minus first, with its paired bootstrap interval."""
    only_first_right: int
    only_second_right: int
    p_value: float | None
    """McNemar's exact two-sided p; None where scores are not all 0 or 1."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of two evaluations."""

    names: tuple[str, str]
    differences: tuple[Difference, ...]
    only_in_first: tuple[str, ...]
    only_in_second: tuple[str, ...]


def compare(first: Path, second: Path, *, seed: int = 0) -> Comparison:
    """Compare the evaluations in two folders.

    Raises:
        UserError: a folder holds no results, the suites or their versions differ, or no case is in both.
    """
    summaries = read_summary(first), read_summary(second)
    for key in ("suite", "suite_version"):
        values = [summary["identity"][key] for summary in summaries]
        if values[0] != values[1]:
            raise UserError(f"{first} and {second} do not compare: {key} is {values[0]!r} and {values[1]!r}.")
    sides = _by_case(read_rows(first)), _by_case(read_rows(second))
    shared = [case_id for case_id in sides[0] if case_id in sides[1]]
    if not shared:
        raise UserError(f"{first} and {second} have no case in common.")
    groups: dict[str, list[str]] = {}
    for case_id in shared:
        groups.setdefault(sides[0][case_id][0], []).append(case_id)
    if len(groups) > 1:
        groups[ALL] = shared
    return Comparison(
        names=(summaries[0]["identity"]["model"], summaries[1]["identity"]["model"]),
        differences=tuple(_difference(name or ALL, ids, sides, seed) for name, ids in groups.items()),
        only_in_first=tuple(case_id for case_id in sides[0] if case_id not in sides[1]),
        only_in_second=tuple(case_id for case_id in sides[1] if case_id not in sides[0]),
    )


def comparison_table(comparison: Comparison) -> Table:
    """Format a comparison as a table of text cells."""
    columns = ("group", "n", "first", "second", "difference", "95 % interval", "only first", "only second", "p")
    cells = [
        (
            d.group,
            str(d.difference.n),
            f"{d.first:.3f}",
            f"{d.second:.3f}",
            f"{d.difference.value:+.3f}",
            f"{d.difference.low:+.3f} to {d.difference.high:+.3f}",
            str(d.only_first_right),
            str(d.only_second_right),
            "" if d.p_value is None else f"{d.p_value:.2g}",
        )
        for d in comparison.differences
    ]
    return Table(f"{comparison.names[0]} (first) and {comparison.names[1]} (second)", columns, tuple(cells))


Side = dict[str, tuple[str, float]]
"""Maps each case id to its group and its mean score over the epochs."""


def _difference(group: str, ids: list[str], sides: tuple[Side, Side], seed: int) -> Difference:
    first, second = ([side[case_id][1] for case_id in ids] for side in sides)
    is_binary = all(value in (0.0, 1.0) for value in (*first, *second))
    only_first, only_second, p = mcnemar([v == 1.0 for v in first], [v == 1.0 for v in second])
    return Difference(
        group=group,
        first=fmean(first),
        second=fmean(second),
        difference=paired_difference(first, second, seed=seed),
        only_first_right=only_first,
        only_second_right=only_second,
        p_value=p if is_binary else None,
    )


def _by_case(rows: list[dict[str, Any]]) -> Side:
    values: dict[str, list[float]] = {}
    groups: dict[str, str] = {}
    for row in rows:
        values.setdefault(row["case_id"], []).append(row["value"])
        groups[row["case_id"]] = row["group"]
    return {case_id: (groups[case_id], fmean(each)) for case_id, each in values.items()}


def read_summary(folder: Path) -> dict[str, Any]:
    """Read the summary of a finished evaluation.

    Raises:
        UserError: the folder holds no summary, or the summary cannot be read.
    """
    path = folder / SUMMARY_FILE
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        summary["identity"]["suite"]
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: name the folder of a finished `agentkit eval`.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as the summary of an evaluation: {error!r}.") from error
    return summary
