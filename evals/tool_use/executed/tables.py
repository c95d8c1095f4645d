"""Tables below the summary: success by number of calls and by server, and how the others failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from evals.case import Case, Run, Score
from evals.harness.suite import Table
from evals.statistics import wilson
from evals.tool_use.executed.scoring import FAILURES, judge
from evals.tool_use.executed.task import Task, task_of

Scored = tuple[Case, Run, Score]


def tables(scored: Sequence[Scored]) -> Sequence[Table]:
    """Return the tables of this suite."""
    return (
        _success(scored, "Right by number of calls", "calls", lambda task: str(task.n_calls)),
        _success(scored, "Right by server", "server", lambda task: " + ".join(task.servers)),
        _failures(scored),
    )


def _success(scored: Sequence[Scored], title: str, column: str, key: Callable[[Task], str]) -> Table:
    values: dict[str, list[float]] = {}
    for case, _, score in scored:
        values.setdefault(key(task_of(case)), []).append(score.value)
    rows = [_right(name, group) for name, group in sorted(values.items())]
    return Table(
        title,
        (column, "right", "share (95 % Wilson)"),
        (*rows, _right("all", [v for g in values.values() for v in g])),
    )


def _right(name: str, values: Sequence[float]) -> tuple[str, str, str]:
    n_right = sum(value == 1.0 for value in values)
    return name, f"{n_right} of {len(values)}", str(wilson(n_right, len(values)))


def _failures(scored: Sequence[Scored]) -> Table:
    counts = Counter(judge(case, run)[0] for case, run, _ in scored)
    rows = tuple((name, str(counts[name]), meaning) for name, meaning in FAILURES.items())
    return Table("What failed", ("failure", "runs", "meaning"), (*rows, ("none", str(counts[None]), "right")))
