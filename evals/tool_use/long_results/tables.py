"""Tables below the summary: correct answers by kind of question, counts of failures, and cost."""

from __future__ import annotations

from collections.abc import Sequence

from evals.case import Case, Run, Score
from evals.harness.suite import Table
from evals.tool_use.executed.tables import failure_table, success_table
from evals.tool_use.first_hour.tables import cost_table
from evals.tool_use.long_results.question import question_of
from evals.tool_use.long_results.scoring import FAILURES, judge

Scored = tuple[Case, Run, Score]


def tables(scored: Sequence[Scored]) -> Sequence[Table]:
    """Return the tables of this suite."""
    return (
        success_table(scored, "Right by kind of question", "question", lambda case: question_of(case).kind),
        failure_table((judge(case, run)[0] for case, run, _ in scored), FAILURES.items()),
        cost_table([run for _, run, _ in scored]),
    )
