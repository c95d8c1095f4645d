"""Tables below the summary: success by number of calls and by server, and counts of failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from evals.case import Case, Run, Score
from evals.harness.suite import Table
from evals.statistics import wilson
from evals.tool_use.executed.scoring import FAILURES, judge
from evals.tool_use.executed.task import task_of

Scored = tuple[Case, Run, Score]


def tables(scored: Sequence[Scored]) -> Sequence[Table]:
    """Return the tables of this suite."""
    return (
        success_table(scored, "Right by number of calls", "calls", lambda case: str(task_of(case).n_calls)),
        success_table(scored, "Right by server", "server", lambda case: " + ".join(task_of(case).servers)),
        failure_table((judge(case, run)[0] for case, run, _ in scored), FAILURES.items()),
    )


def success_table(scored: Sequence[Scored], title: str, column: str, key: Callable[[Case], str]) -> Table:
    """Return the number and share of correct runs, grouped by a property of their cases."""
    values: dict[str, list[float]] = {}
    for case, _, score in scored:
        values.setdefault(key(case), []).append(score.value)
    rows = [_right(name, group) for name, group in sorted(values.items())]
    return Table(
        title,
        (column, "right", "share (95 % Wilson)"),
        (*rows, _right("all", [v for g in values.values() for v in g])),
    )


def failure_table(found: Iterable[str | None], meanings: Iterable[tuple[str, str]]) -> Table:
    """Return the count of each failure in `meanings`; None in `found` stands for a correct run."""
    counts = Counter(found)
    rows = tuple((name, str(counts[name]), meaning) for name, meaning in meanings)
    return Table("What failed", ("failure", "runs", "meaning"), (*rows, ("none", str(counts[None]), "right")))


def _right(name: str, values: Sequence[float]) -> tuple[str, str, str]:
    n_right = sum(value == 1.0 for value in values)
    return name, f"{n_right} of {len(values)}", str(wilson(n_right, len(values)))
