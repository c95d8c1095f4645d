"""Tables below the summary: counts of failures, and the cost of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles

from evals.case import Case, Run, Score
from evals.harness.suite import Table
from evals.tool_use.executed.tables import failure_table
from evals.tool_use.first_hour.running import MODEL, PEAK_MB
from evals.tool_use.first_hour.scoring import FAILURES, judge

Scored = tuple[Case, Run, Score]


def tables(scored: Sequence[Scored]) -> Sequence[Table]:
    """Return the tables of this suite."""
    found = (judge(case, run)[0] for case, run, _ in scored)
    return failure_table(found, FAILURES.items()), cost_table([run for _, run, _ in scored])


def cost_table(runs: Sequence[Run]) -> Table:
    """Return the cost of runs: seconds, peak memory, and the models."""
    seconds = sorted(run.wall_s for run in runs)
    p90 = quantiles(seconds, n=10, method="inclusive")[-1] if len(seconds) > 1 else seconds[0]
    models = sorted({str(run.observed[MODEL]) for run in runs if MODEL in run.observed})
    peaks = [float(run.observed[PEAK_MB]) for run in runs if PEAK_MB in run.observed]
    return Table(
        "Cost",
        ("figure", "value"),
        (
            ("seconds a request, median", f"{median(seconds):.2f}"),
            ("seconds a request, 90th percentile", f"{p90:.2f}"),
            ("peak memory of this process, MB", f"{max(peaks):.0f}" if peaks else "unknown"),
            *(("model", name) for name in models),
        ),
    )
