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
    rows = tuple(
        (name, str(len(group)), str(wilson(sum(value == 1.0 for value in group), len(group))))
        for name, group in sorted(values.items())
    )
    return Table(title, (column, "n", "right (95 % Wilson)"), rows)


def _failures(scored: Sequence[Scored]) -> Table:
    counts = Counter(judge(case, run)[0] for case, run, _ in scored)
    rows = tuple((name, str(counts[name]), meaning) for name, meaning in FAILURES.items())
    return Table("What failed", ("failure", "runs", "meaning"), (*rows, ("none", str(counts[None]), "right")))
